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
#: beside those, where there is more to do at once
LARGE = ((65536, 2, 64, None),)
TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}


def _solve(batch: int, dims: int, hidden: int, *, device: str) -> Contest:
    y0, t = state(batch, dims).to(device), torch.tensor([0.0, 1.0], device=device)
    field = seeded(lambda: MLPField(dims, hidden)).to(device)
    return Contest(
        field,
        forward_side("odeint", torchdiffeq.odeint, y0, t, **TOLERANCES),
        (forward_side("odeint", fastode.odeint, y0, t, **TOLERANCES),),
        exactly(field, forward_side, y0, t),
        device=device,
    )


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """One for each size."""
    found = []
    for batch, dims, hidden, ratio in SIZES if device == "cpu" else SIZES + LARGE:
        size = (min(batch, 3), min(dims, 3), 4) if tiny else (batch, dims, hidden)
        target = Target("ratio", ratio) if ratio and device == "cpu" else None
        build = functools.partial(_solve, *size, device=device)
        found.append(Case(f"forward {batch}-{dims}-{hidden}", build, target))
    return found
