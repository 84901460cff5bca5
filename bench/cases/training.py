"""Training steps: solve, loss, gradients of the parameters, in each library's ways to differentiate."""

from __future__ import annotations

import functools

import torch
import torchdiffeq

import fastode

from ..contest import Case, Contest, Target
from ..problems import MLPField, exactly, seeded, state, training_side

SIZES = ((1, 2, 16), (64, 2, 64), (2048, 2, 64))
#: beside those, where there is more to do at once
LARGE = ((65536, 2, 64),)
TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}
DISCRETE = functools.partial(fastode.odeint_adjoint, gradient="discrete")

#: name, the peer's way, ours, what our backward evaluations may be, and the ratio asked for at batch 64
WAYS = (
    ("odeint", torchdiffeq.odeint, fastode.odeint, "equal", None),
    ("adjoint", torchdiffeq.odeint_adjoint, fastode.odeint_adjoint, "at most", 3),
    ("adjoint against discrete", torchdiffeq.odeint_adjoint, DISCRETE, "any", 6),
)


def _train(batch: int, dims: int, hidden: int, way: int, *, device: str) -> Contest:
    y0, t = state(batch, dims).to(device), torch.tensor([0.0, 1.0], device=device)
    field = seeded(lambda: MLPField(dims, hidden)).to(device)
    name, peer, ours, backward, _ = WAYS[way]
    label = "odeint" if way == 0 else "discrete" if way == 2 else "adjoint"
    return Contest(
        field,
        training_side(name, peer, y0, t, **TOLERANCES),
        (training_side(label, ours, y0, t, **TOLERANCES),),
        exactly(field, training_side, y0, t),
        backward=backward,
        yardstick=training_side("odeint", torchdiffeq.odeint, y0, t, **TOLERANCES),
        device=device,
    )


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """Every size in every way."""
    found = []
    for batch, dims, hidden in SIZES if device == "cpu" else SIZES + LARGE:
        size = (min(batch, 3), dims, 4) if tiny else (batch, dims, hidden)
        for way, (name, _, _, _, ratio) in enumerate(WAYS):
            target = Target("ratio", ratio) if ratio and batch == 64 and device == "cpu" else None
            build = functools.partial(_train, *size, way, device=device)
            found.append(Case(f"training {name} {batch}-{dims}-{hidden}", build, target))
    return found
