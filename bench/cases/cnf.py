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
from ..flows import Flow, fastode_sides, torchdiffeq_side
from ..libraries import absent
from ..problems import MLPField, seeded, state

#: the peer's package, its way, and the ratio asked for
WAYS = (("torchdiffeq", "adjoint", 12.0), ("torchdiffeq", "odeint", 7.0), ("diffrax", "grad", 7.0))


@functools.cache
def exact(batch: int, dims: int, hidden: int) -> Flow:
    """With the exact trace; made once, so that its reference is computed once."""
    return Flow(seeded(lambda: MLPField(dims, hidden)), state(batch, dims), None, 1e-5, 1e-5)


def exact_size(batch: int, tiny: bool) -> tuple[int, int, int]:
    """Batch, dims and hidden units."""
    return (3, 2, 4) if tiny else (batch, 2, 64)


def _exact(batch: int, tiny: bool, package: str, way: str) -> Contest:
    flow = exact(*exact_size(batch, tiny))
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
    )


def _hutchinson(tiny: bool) -> Contest:
    batch, dims, hidden = (3, 5, 8) if tiny else (1000, 43, 860)
    drift = seeded(lambda: TimedField(dims, (hidden, hidden), layer="concatsquash", activation="softplus"))
    noise = torch.randint(0, 2, (batch, dims), generator=torch.Generator().manual_seed(2)) * 2.0 - 1.0
    flow = Flow(drift, state(batch, dims), noise, 1e-6, 1e-8)
    return Contest(
        flow.field,
        torchdiffeq_side("adjoint", torchdiffeq.odeint_adjoint, flow),
        fastode_sides(flow, [flow.rtol]),
        lambda: flow.reference,
        # FFJORD's tolerances are so tight that the rounding of float32 has a say in the steps
        forward="any",
        backward="any",
    )


def cases(tiny: bool) -> list[Case]:
    """The exact trace beside every way, and Hutchinson's estimate as FFJORD has it for MINIBOONE."""
    found = [
        Case(
            f"CNF training {batch}-2-64, against {package} {way}",
            functools.partial(_exact, batch, tiny, package, way),
            Target("ratio", ratio),
            share=0.5,
            missing=absent(package, "cpu"),
            rounds=3 if batch > 2048 else None,
        )
        for batch in (2048, 16384)
        for package, way, ratio in WAYS
    ]
    name = "CNF training with Hutchinson's trace 1000-43-860, against torchdiffeq adjoint"
    # a step of the peer takes many seconds
    found.append(Case(name, functools.partial(_hutchinson, tiny), Target("ratio", 5), threads=2, rounds=2))
    return found
