"""Solver overhead per dopri5 step: the time of a solve, less that of the field's calls alone, by step."""

from __future__ import annotations

import functools

import torch
import torchdiffeq
from torch import Tensor, nn

import fastode

from ..contest import Case, Contest, Target
from ..problems import Rotation, exactly, forward_side, seeded, state, training_side

TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}


def _calls(field: nn.Module, y: Tensor, n: int) -> None:
    """The field's calls of a solve, alone."""
    t = torch.zeros(())
    with torch.no_grad():
        for _ in range(n):
            field(t, y)


def _calls_and_gradients(field: nn.Module, y: Tensor, n: int) -> None:
    """The same calls on a tape, in a chain as in a solve, and one backward pass."""
    t = torch.zeros(())
    for _ in range(n):
        y = field(t, y)
    torch.autograd.backward(y, torch.zeros_like(y))


def _forward(tiny: bool) -> Contest:
    y0, t = state(64, 2), torch.tensor([0.0, 1.0 if tiny else 10.0])
    field = seeded(Rotation)
    return Contest(
        field,
        forward_side("odeint", torchdiffeq.odeint, y0, t, **TOLERANCES),
        (forward_side("odeint", fastode.odeint, y0, t, **TOLERANCES),),
        exactly(field, forward_side, y0, t),
        bare=functools.partial(_calls, field, y0),
    )


def _training(tiny: bool) -> Contest:
    y0, t = state(64, 2), torch.tensor([0.0, 1.0 if tiny else 10.0])
    field = seeded(Rotation)
    discrete = functools.partial(fastode.odeint_adjoint, gradient="discrete")
    return Contest(
        field,
        training_side("odeint", torchdiffeq.odeint, y0, t, **TOLERANCES),
        (
            training_side("odeint", fastode.odeint, y0, t, **TOLERANCES),
            training_side("discrete", discrete, y0, t, **TOLERANCES),
        ),
        exactly(field, training_side, y0, t),
        bare=functools.partial(_calls_and_gradients, field, y0),
        backward="any",
    )


def cases(tiny: bool) -> list[Case]:
    """Without gradients, and with them in the better of fastode's two ways."""
    return [
        Case("overhead per step 64-2", functools.partial(_forward, tiny), Target("ratio", 20)),
        Case("overhead per step with gradients 64-2", functools.partial(_training, tiny), Target("ratio", 6)),
    ]
