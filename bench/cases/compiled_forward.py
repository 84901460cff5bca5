"""Whole solves of compiled fields without gradients: an MLP field, dopri5, from 0 to 1."""

from __future__ import annotations

import functools

import torch
import torchdiffeq

from .. import diffrax_sides
from ..compiled import odeint_sides, tolerances_beside
from ..contest import Case, Contest, Target
from ..libraries import absent
from ..problems import MLPField, exactly, forward_side, seeded, state

#: batch, dims, hidden units, and how many times faster than each peer is asked for
SIZES: tuple[tuple[int, int, int, dict[str, float]], ...] = (
    (1, 2, 16, {"torchdiffeq": 300.0, "diffrax": 2.0}),
    (64, 2, 64, {}),
    (2048, 2, 64, {"torchdiffeq": 6.0, "diffrax": 2.2}),
    (16384, 2, 64, {"torchdiffeq": 6.0, "diffrax": 2.2}),
    (1024, 64, 256, {"torchdiffeq": 2.2, "diffrax": 1.7}),
)
#: beside those, where there is more to do at once
LARGE: tuple[tuple[int, int, int, dict[str, float]], ...] = ((65536, 2, 64, {}),)
PEERS = ("torchdiffeq", "diffrax")
TOLERANCE = 1e-6


def _solve(batch: int, dims: int, hidden: int, peer: str, *, device: str) -> Contest:
    y0, t = state(batch, dims).to(device), torch.tensor([0.0, 1.0], device=device)
    field = seeded(lambda: MLPField(dims, hidden)).to(device)
    if peer == "diffrax":
        side = diffrax_sides.forward_side(field, y0, t, rtol=TOLERANCE, atol=TOLERANCE)
    else:
        side = forward_side("odeint", torchdiffeq.odeint, y0, t, rtol=TOLERANCE, atol=TOLERANCE)
    return Contest(
        field,
        side,
        odeint_sides(forward_side, field, y0, t, tolerances_beside(peer, TOLERANCE)),
        exactly(field, forward_side, y0, t),
        forward="any" if peer == "diffrax" else "equal",
        device=device,
    )


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """Every size beside every peer."""
    found = []
    for batch, dims, hidden, ratios in SIZES if device == "cpu" else SIZES + LARGE:
        size = (min(batch, 3), min(dims, 3), 4) if tiny else (batch, dims, hidden)
        found += [
            Case(
                f"compiled forward {batch}-{dims}-{hidden}, against {peer}",
                functools.partial(_solve, *size, peer, device=device),
                Target("ratio", ratios[peer]) if peer in ratios and device == "cpu" else None,
                share=0.5,
                missing=absent(peer, device),
            )
            for peer in PEERS
        ]
    return found
