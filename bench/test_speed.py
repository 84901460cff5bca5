"""``pytest bench/test_speed.py --benchmark-only``: both libraries on one network, as pytest-benchmark shows them.

The table that counts is ``python -m bench``, which alternates the two and refuses unequal errors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchdiffeq

import fastode
from bench.contest import Side
from bench.problems import MLPField, forward_side, seeded, state, training_side

TOLERANCES = {"rtol": 1e-5, "atol": 1e-6}
DIMS, HIDDEN = 4, 64

#: what is compared: how a side is made, and what each library calls
WAYS: dict[str, tuple[Callable[..., Side], dict[str, Any]]] = {
    "forward": (forward_side, {"torchdiffeq": torchdiffeq.odeint, "fastode": fastode.odeint}),
    "training": (training_side, {"torchdiffeq": torchdiffeq.odeint, "fastode": fastode.odeint}),
    "adjoint": (
        training_side,
        {
            "torchdiffeq": torchdiffeq.odeint_adjoint,
            "fastode": fastode.odeint_adjoint,
            "fastode-discrete": functools.partial(fastode.odeint_adjoint, gradient="discrete"),
        },
    ),
}


@pytest.mark.parametrize("batch", [1, 64], ids=lambda n: f"batch{n}")
@pytest.mark.parametrize(("way", "library"), [(way, library) for way, (_, calls) in WAYS.items() for library in calls])
def test_speed(benchmark: Any, way: str, library: str, batch: int) -> None:
    """One call of one library; the group holds all that do the same."""
    make, calls = WAYS[way]
    field = seeded(lambda: MLPField(DIMS, HIDDEN))
    side = make(library, calls[library], state(batch, DIMS), torch.tensor([0.0, 1.0]), **TOLERANCES)
    benchmark.group = f"{way} batch {batch}"
    result = side.result(benchmark(side.run, field))
    assert bool(result.isfinite().all())
