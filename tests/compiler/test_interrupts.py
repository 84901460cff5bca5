"""Ctrl-C ends a native solve, forward or backward, and the next one works."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import fastode

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
FIELD = fastode.compile(lambda t, y: torch.sin(y), memory=1_000_000)


def forever(rows: int) -> Callable[[], object]:
    return lambda: fastode.odeint(FIELD, torch.ones(rows, 2), torch.tensor([0.0, 1e9]), options={"max_step": 1.0})


def forever_on_a_grid(rows: int) -> Callable[[], object]:
    y0, t = torch.ones(rows, 200), torch.linspace(0, 1, 1_000_001, dtype=torch.float64)[[0, -1]]
    return lambda: fastode.odeint(FIELD, y0, t, method="rk4", options={"step_size": 1e-6})


def forever_by_row(rows: int) -> Callable[[], object]:
    return lambda: fastode.solve(FIELD, torch.ones(rows, 2), (0.0, 1e9), max_step=1.0)


def long_gradient(rows: int) -> Callable[[], object]:
    y0 = torch.ones(rows, 2, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y = fastode.odeint(FIELD, y0, t, method="rk4", options={"step_size": 2e-6})
    return lambda: torch.autograd.grad(y.sum(), y0)


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("make", [forever, forever_on_a_grid, forever_by_row, long_gradient])
def test_an_interrupt_ends_a_solve(make: Callable[[int], Callable[[], object]], rows: int) -> None:
    run = make(rows)
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.05):
        run()
    y: Tensor = fastode.odeint(FIELD, torch.ones(rows, 2), torch.tensor([0.0, 1.0]))
    assert fastode.last_stats().engine == "compiled"
    assert bool(y.isfinite().all())
