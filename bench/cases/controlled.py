"""Training steps of a neural CDE, whose field looks its input up by the time, compiled beside torchdiffeq."""

from __future__ import annotations

import functools

import torch
import torchdiffeq
from torch import Tensor, nn

import fastode

from ..compiled import natively
from ..contest import Case, Contest
from ..problems import exactly, seeded, state, training_side

TOLERANCE = 1e-4
#: samples of each path, and its channels
TIMES, CHANNELS = 20, 3


class ControlledByPath(nn.Module):
    """``dz/dt = f(z) dX/dt`` (Kidger et al., 2020), the slope of each sample's path X linear between given times."""

    knots: Tensor
    slopes: Tensor

    def __init__(self, batch: int, dims: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dims, hidden), nn.ReLU(), nn.Linear(hidden, dims * CHANNELS), nn.Tanh())
        self.register_buffer("knots", torch.linspace(0.0, 1.0, TIMES))
        self.register_buffer("slopes", torch.randn(batch, TIMES, CHANNELS))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The derivative at ``z: [B, dims]``."""
        piece = (torch.bucketize(t, self.knots) - 1).clamp(0, TIMES - 2)
        left, right = self.slopes[:, piece], self.slopes[:, piece + 1]
        slope = left + (right - left) * (t - self.knots[piece]) * (TIMES - 1)
        return (self.net(z).view(*z.shape, CHANNELS) @ slope[..., None]).squeeze(-1)


def _train(batch: int, dims: int, hidden: int, way: str) -> Contest:
    y0, t = state(batch, dims), torch.tensor([0.0, 1.0])
    field = seeded(lambda: ControlledByPath(batch, dims, hidden))
    # steps end where the path's slope has kinks, beyond which rounding would decide how many steps are taken
    same = {"rtol": TOLERANCE, "atol": TOLERANCE, "options": {"step_t": field.knots}}
    autograd = training_side("odeint", torchdiffeq.odeint, y0, t, **same)
    adjoint = training_side("adjoint", torchdiffeq.odeint_adjoint, y0, t, **same)
    return Contest(
        field,
        adjoint if way == "adjoint" else autograd,
        (natively(training_side("odeint", fastode.odeint, y0, t, **same), fastode.compile(field)),),
        exactly(field, training_side, y0, t),
        backward="any",
        yardstick=autograd if way == "adjoint" else None,
    )


def cases(tiny: bool) -> list[Case]:
    """Beside each way of torchdiffeq's."""
    return [
        Case(
            f"compiled neural CDE training 64-8-128, against torchdiffeq {way}",
            functools.partial(_train, *((3, 2, 4) if tiny else (64, 8, 128)), way),
            share=0.5,
        )
        for way in ("adjoint", "odeint")
    ]
