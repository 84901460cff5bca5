"""Other uses of a solver: many outputs, float64, a fixed grid, a tuple state."""

from __future__ import annotations

import functools

import torch
import torchdiffeq

import fastode

from ..contest import Case, Contest
from ..problems import FlowField, MLPField, exactly, forward_side, seeded, state, training_side

TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}


def _adjoint_outputs(tiny: bool) -> Contest:
    y0, t = state(64, 2), torch.linspace(0, 1, 5 if tiny else 100)
    field = seeded(lambda: MLPField(2, 64))
    return Contest(
        field,
        training_side("adjoint", torchdiffeq.odeint_adjoint, y0, t, **TOLERANCES),
        (training_side("adjoint", fastode.odeint_adjoint, y0, t, **TOLERANCES),),
        exactly(field, training_side, y0, t),
        backward="at most",
        yardstick=training_side("odeint", torchdiffeq.odeint, y0, t, **TOLERANCES),
    )


def _double(tiny: bool) -> Contest:
    y0, t = state(64, 2).double(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    field = seeded(lambda: MLPField(2, 64)).double()
    tight = {"rtol": 1e-8, "atol": 1e-8}
    return Contest(
        field,
        forward_side("odeint", torchdiffeq.odeint, y0, t, **tight),
        (forward_side("odeint", fastode.odeint, y0, t, **tight),),
        exactly(field, forward_side, y0, t),
    )


def _fixed_grid(tiny: bool) -> Contest:
    y0, t = state(64, 2), torch.tensor([0.0, 1.0])
    field = seeded(lambda: MLPField(2, 64))
    how = {"method": "rk4", "options": {"step_size": 0.25 if tiny else 0.02}}
    return Contest(
        field,
        forward_side("rk4", torchdiffeq.odeint, y0, t, **how),
        (forward_side("rk4", fastode.odeint, y0, t, **how),),
        exactly(field, forward_side, y0, t),
    )


def _outputs(tiny: bool) -> Contest:
    y0, t = state(64, 2), torch.linspace(0, 1, 10 if tiny else 1000)
    field = seeded(lambda: MLPField(2, 64))
    return Contest(
        field,
        forward_side("odeint", torchdiffeq.odeint, y0, t, **TOLERANCES),
        (forward_side("odeint", fastode.odeint, y0, t, **TOLERANCES),),
        exactly(field, forward_side, y0, t),
    )


def _flow(tiny: bool, way: str) -> Contest:
    batch = 3 if tiny else 64
    y0, t = (state(batch, 2), torch.zeros(batch)), torch.tensor([0.0, 1.0])
    field = seeded(lambda: FlowField(MLPField(2, 64)))
    loose = {"rtol": 1e-5, "atol": 1e-5}
    peer, ours = {
        "odeint": (torchdiffeq.odeint, fastode.odeint),
        "adjoint": (torchdiffeq.odeint_adjoint, fastode.odeint_adjoint),
    }[way]
    return Contest(
        field,
        training_side(way, peer, y0, t, **loose),
        (training_side(way, ours, y0, t, **loose),),
        exactly(field, training_side, y0, t),
        backward="equal" if way == "odeint" else "at most",
    )


def cases(tiny: bool) -> list[Case]:
    """No target is set for these."""
    return [
        Case("training adjoint with 100 outputs 64-2-64", functools.partial(_adjoint_outputs, tiny)),
        Case("forward float64 64-2-64", functools.partial(_double, tiny)),
        Case("forward rk4 of 50 steps 64-2-64", functools.partial(_fixed_grid, tiny)),
        Case("forward with 1000 outputs 64-2-64", functools.partial(_outputs, tiny)),
        Case("training flow (z, logp) odeint 64-2-64", functools.partial(_flow, tiny, "odeint")),
        Case("training flow (z, logp) adjoint 64-2-64", functools.partial(_flow, tiny, "adjoint")),
    ]
