"""Run fastode and torchdiffeq on the same call and compare everything that can be seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import Recorder
from torch import Tensor

import fastode

torchdiffeq = pytest.importorskip("torchdiffeq", reason="parity is measured against torchdiffeq")
reference = torchdiffeq.odeint
reference_adjoint = torchdiffeq.odeint_adjoint
reference_event = torchdiffeq.odeint_event

#: float64 results agree to rounding, which a contracting problem does not amplify
CLOSE = {torch.float64: 1e-12, torch.complex128: 1e-12, torch.float32: 1e-5, torch.complex64: 1e-5}


def parts(x: Any) -> tuple[Tensor, ...]:
    return tuple(x) if isinstance(x, tuple | list) else (x,)


def assert_close(ours: Any, theirs: Any, scale: float = 1.0) -> None:
    """Equal structure, shapes, dtypes, and values up to rounding."""
    assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    for a, b in zip(parts(ours), parts(theirs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        tolerance = CLOSE[b.dtype] * scale
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_same_times(ours: list[float], theirs: list[float], dtype: torch.dtype = torch.float64) -> None:
    """The same evaluations at the same times; step sizes may differ in their last digits."""
    assert len(ours) == len(theirs)
    tolerance = 1e-9 if dtype in (torch.float64, torch.complex128) else 1e-4
    torch.testing.assert_close(
        torch.tensor(ours, dtype=torch.float64),
        torch.tensor(theirs, dtype=torch.float64),
        rtol=tolerance,
        atol=tolerance,
    )


def solve_both(
    field: Callable[..., Any],
    y0: Any,
    t: Tensor,
    theirs: dict[str, Any] | None = None,
    scale: float = 1.0,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """Solve with both, compare values and the times of all evaluations; ``theirs`` replaces torchdiffeq's arguments."""
    one, two = Recorder(field), Recorder(field)
    ours = fastode.odeint(one, y0, t, **kwargs)
    reference_kwargs = {**kwargs, **(theirs or {})}
    answer = reference(two, y0, t, **reference_kwargs)
    assert_same_times(one.times, two.times, parts(y0)[0].dtype)
    assert_close(ours, answer, scale)
    return ours, answer
