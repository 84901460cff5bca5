"""Training steps of a compiled field: solve, loss, gradients of the parameters, beside each peer's ways."""

from __future__ import annotations

import functools

import torch
import torchdiffeq

from .. import diffrax_sides
from ..compiled import ROUNDING, odeint_sides, tolerances_beside
from ..contest import Case, Contest, Target
from ..libraries import absent
from ..problems import MLPField, exactly, seeded, state, training_side

TOLERANCE = 1e-6
#: batch; dims and hidden units are 2 and 64
SIZES = (2048,)
#: beside those, where a batch is one kernel: what it costs by itself, and where there is more to do at once
OF_A_GPU = (64, 65536)
#: the peer's package, its way, and the ratio asked for
WAYS = (("torchdiffeq", "adjoint", 20.0), ("torchdiffeq", "odeint", 4.0), ("diffrax", "grad", 4.0))


def _train(batch: int, dims: int, hidden: int, package: str, way: str, *, device: str) -> Contest:
    y0, t = state(batch, dims).to(device), torch.tensor([0.0, 1.0], device=device)
    field = seeded(lambda: MLPField(dims, hidden)).to(device)
    same, tight = {"rtol": TOLERANCE, "atol": TOLERANCE}, {"rtol": TOLERANCE * ROUNDING, "atol": TOLERANCE * ROUNDING}
    autograd = training_side("odeint", torchdiffeq.odeint, y0, t, **same)
    peer, yardstick = {
        "adjoint": lambda: (training_side("adjoint", torchdiffeq.odeint_adjoint, y0, t, **same), autograd),
        "odeint": lambda: (autograd, None),
        "grad": lambda: (
            diffrax_sides.training_side(field, y0, t, **same),
            training_side("odeint", torchdiffeq.odeint, y0, t, **tight),
        ),
    }[way]()
    return Contest(
        field,
        peer,
        odeint_sides(training_side, field, y0, t, tolerances_beside(package, TOLERANCE)),
        exactly(field, training_side, y0, t),
        forward="any" if way == "grad" else "equal",
        backward="any",
        yardstick=yardstick,
        device=device,
    )


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """Every size beside every way."""
    return [
        Case(
            f"compiled training {batch}-2-64, against {package} {way}",
            functools.partial(_train, *((3, 2, 4) if tiny else (batch, 2, 64)), package, way, device=device),
            Target("ratio", ratio) if device == "cpu" else None,
            share=0.5,
            missing=absent(package, device),
        )
        for batch in (SIZES if device == "cpu" else SIZES + OF_A_GPU)
        for package, way, ratio in WAYS
    ]
