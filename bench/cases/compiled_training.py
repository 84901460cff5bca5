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
#: the peer's package, its way, and the ratio asked for
WAYS = (("torchdiffeq", "adjoint", 20.0), ("torchdiffeq", "odeint", 4.0), ("diffrax", "grad", 4.0))


def _train(batch: int, dims: int, hidden: int, package: str, way: str) -> Contest:
    y0, t = state(batch, dims), torch.tensor([0.0, 1.0])
    field = seeded(lambda: MLPField(dims, hidden))
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
    )


def cases(tiny: bool) -> list[Case]:
    """One size beside every way."""
    size = (3, 2, 4) if tiny else (2048, 2, 64)
    return [
        Case(
            f"compiled training 2048-2-64, against {package} {way}",
            functools.partial(_train, *size, package, way),
            Target("ratio", ratio),
            share=0.5,
            missing=absent(package, "cpu"),
        )
        for package, way, ratio in WAYS
    ]
