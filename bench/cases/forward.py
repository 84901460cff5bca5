"""Whole solves without gradients: an MLP field, dopri5, from 0 to 1."""

from __future__ import annotations

import functools

import torch
import torchdiffeq

import fastode

from ..contest import Case, Contest, Target
from ..problems import MLPField, exactly, forward_side, seeded, state

#: batch, dims, hidden units, and how many times faster than torchdiffeq is asked for
SIZES = ((1, 2, 16, 4), (64, 2, 64, 3), (2048, 2, 64, None), (16384, 2, 64, None), (1024, 64, 256, None))
TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}


def _solve(batch: int, dims: int, hidden: int) -> Contest:
    y0, t = state(batch, dims), torch.tensor([0.0, 1.0])
    field = seeded(lambda: MLPField(dims, hidden))
    return Contest(
        field,
        forward_side("odeint", torchdiffeq.odeint, y0, t, **TOLERANCES),
        (forward_side("odeint", fastode.odeint, y0, t, **TOLERANCES),),
        exactly(field, forward_side, y0, t),
    )


def cases(tiny: bool) -> list[Case]:
    """One for each size."""
    found = []
    for batch, dims, hidden, ratio in SIZES:
        size = (min(batch, 3), min(dims, 3), 4) if tiny else (batch, dims, hidden)
        target = Target("ratio", ratio) if ratio else None
        found.append(Case(f"forward {batch}-{dims}-{hidden}", functools.partial(_solve, *size), target))
    return found
