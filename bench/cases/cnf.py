"""Training steps of continuous normalizing flows, compiled, beside FFJORD's way in torchdiffeq and beside diffrax."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torchdiffeq

from fastode.nn import MLPField as TimedField

from .. import diffrax_sides
from ..compiled import ROUNDING, tolerances_beside
from ..contest import Case, Contest, Target
from ..flows import Flow, compiled_side, fastode_sides, torchdiffeq_side
from ..libraries import absent
from ..problems import MLPField, seeded, state

#: the peer's package, its way, and the ratio asked for
WAYS = (("torchdiffeq", "adjoint", 12.0), ("torchdiffeq", "odeint", 7.0), ("diffrax", "grad", 7.0))
#: batches with the exact trace, and those with Hutchinson's estimate
SIZES, ESTIMATED = (2048, 16384), (1000,)
#: beside those, on a GPU
SIZES_OF_A_GPU, ESTIMATED_OF_A_GPU = (64, 65536), (10000,)


@functools.cache
def exact(batch: int, dims: int, hidden: int, device: str = "cpu") -> Flow:
    """With the exact trace; made once, so that its reference is computed once."""
    drift = seeded(lambda: MLPField(dims, hidden)).to(device)
    return Flow(drift, state(batch, dims).to(device), None, 1e-5, 1e-5)


def exact_size(batch: int, tiny: bool) -> tuple[int, int, int]:
    """Batch, dims and hidden units."""
    return (3, 2, 4) if tiny else (batch, 2, 64)


def _exact(batch: int, dims: int, hidden: int, package: str, way: str, *, device: str) -> Contest:
    flow = exact(batch, dims, hidden, device)
    autograd = torchdiffeq_side("odeint", torchdiffeq.odeint, flow)
    tight = replace(flow, rtol=flow.rtol * ROUNDING, atol=flow.atol * ROUNDING)
    peer, yardstick = {
        "adjoint": lambda: (torchdiffeq_side("adjoint", torchdiffeq.odeint_adjoint, flow), autograd),
        "odeint": lambda: (autograd, None),
        "grad": lambda: (
            diffrax_sides.flow_side(flow.drift, flow.x, rtol=flow.rtol, atol=flow.atol),
            torchdiffeq_side("odeint", torchdiffeq.odeint, tight),
        ),
    }[way]()
    return Contest(
        flow.field,
        peer,
        fastode_sides(flow, tolerances_beside(package, flow.rtol)),
        lambda: flow.reference,
        forward="any" if way == "grad" else "equal",
        backward="any",
        yardstick=yardstick,
        device=device,
    )


def _as_it_is(batch: int, dims: int, hidden: int, *, device: str) -> Contest:
    flow = exact(batch, dims, hidden, device)
    return Contest(
        flow.field,
        torchdiffeq_side("adjoint", torchdiffeq.odeint_adjoint, flow),
        (compiled_side(flow),),
        lambda: flow.reference,
        forward="equal",
        backward="any",
        yardstick=torchdiffeq_side("odeint", torchdiffeq.odeint, flow),
        device=device,
    )


def _hutchinson(batch: int, dims: int, hidden: int, *, device: str) -> Contest:
    drift = seeded(lambda: TimedField(dims, (hidden, hidden), layer="concatsquash", activation="softplus")).to(device)
    noise = torch.randint(0, 2, (batch, dims), generator=torch.Generator().manual_seed(2)) * 2.0 - 1.0
    flow = Flow(drift, state(batch, dims).to(device), noise.to(device), 1e-6, 1e-8)
    ours = fastode_sides(flow, [flow.rtol])
    if device != "cpu":
        # no fused kernel is that wide: the row says which engine served
        ours = tuple(replace(side, served_by="") for side in ours)
    return Contest(
        flow.field,
        torchdiffeq_side("adjoint", torchdiffeq.odeint_adjoint, flow),
        ours,
        lambda: flow.reference,
        # FFJORD's tolerances are so tight that the rounding of float32 has a say in the steps
        forward="any",
        backward="any",
        device=device,
    )


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """The exact trace beside every way, and by the peer's own field; Hutchinson's estimate as in FFJORD's MINIBOONE."""
    on_cpu = device == "cpu"
    found = [
        Case(
            f"CNF training {batch}-2-64, against {package} {way}",
            functools.partial(_exact, *exact_size(batch, tiny), package, way, device=device),
            Target("ratio", ratio) if on_cpu else None,
            share=0.5,
            missing=absent(package, device),
            rounds=3 if on_cpu and batch > 2048 else None,
        )
        for batch in (SIZES if on_cpu else SIZES + SIZES_OF_A_GPU)
        for package, way, ratio in WAYS
    ]
    found.append(
        Case(
            "CNF training 2048-2-64 with torchdiffeq's own field, against torchdiffeq adjoint",
            functools.partial(_as_it_is, *exact_size(2048, tiny), device=device),
            share=0.5,
        )
    )
    for batch in ESTIMATED if on_cpu else ESTIMATED + ESTIMATED_OF_A_GPU:
        name = f"CNF training with Hutchinson's trace {batch}-43-860, against torchdiffeq adjoint"
        build = functools.partial(_hutchinson, *((3, 5, 8) if tiny else (batch, 43, 860)), device=device)
        # a step of the peer takes many seconds on a CPU
        many = {"target": Target("ratio", 5), "threads": 2, "rounds": 2} if on_cpu else {"rounds": 3}
        found.append(Case(name, build, **many))
    return found
