"""Solves of rows by the kernels, in Triton's interpreter, and the same by the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastode
from fastode.compiler.evaluate import evaluate
from fastode.compiler.gpu.rows import RowRecord, solve_rows
from fastode.controller import Controller
from fastode.kernels.row_state import RowState
from fastode.methods import lookup
from gpu.fields import Traced

NAN = float("nan")


@dataclass
class Solved:
    """Where rows stopped, and what they left."""

    y: Tensor
    ys: Tensor
    state: RowState
    reached: Tensor
    record: RowRecord


def fused(
    found: Traced,
    y0: Tensor,
    t0: Tensor,
    t_end: Tensor,
    times: Tensor,
    method: str = "dopri5",
    rtol: Tensor | float = 1e-4,
    atol: Tensor | float = 1e-6,
    first_step: Tensor | None = None,
    controller: Controller | None = None,
    max_steps: int = 10_000,
    capacity: int = 64,
    **settings: Any,
) -> Solved:
    """The solve by the kernels."""
    tableau = lookup(method)
    given = [torch.as_tensor(tol, dtype=y0.dtype) for tol in (rtol, atol)]
    tolerances = (
        given[0].reshape(-1) if given[0].ndim == 0 else given[0],
        given[1].reshape(-1) if given[1].ndim == 0 else given[1],
    )
    state = RowState.begin(t0, t_end, first_step)
    y, reached = y0.clone(), torch.zeros(len(y0), dtype=torch.int64)
    ys = torch.full((*times.shape, found.features), NAN, dtype=y0.dtype)
    record = RowRecord.for_steps(y, capacity)
    solve_rows(
        found.fused(**settings),
        tableau,
        y,
        found.arguments,
        found.constants,
        state,
        tolerances,
        controller or Controller(tableau.order),
        max_steps,
        times,
        reached,
        ys,
        record,
    )
    return Solved(y, ys, state, reached, record)


def spans(rows: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Starts, ends and times of evaluation: forward, backward, with both ends, without, and several in one step."""
    t0 = torch.linspace(0.0, 0.4, rows, dtype=torch.float64)
    t_end = t0 + torch.linspace(1.5, -1.0, rows, dtype=torch.float64)
    shares = [(0.0, 0.3, 0.31, 0.32, 1.0), (0.2, 0.9), (1.0,), (0.0, 1.0)]
    each = [torch.stack([t0[r] + (t_end[r] - t0[r]) * x for x in shares[r % 4]]) for r in range(rows)]
    for r in range(rows):
        if shares[r % 4][-1] == 1.0:
            each[r][-1] = t_end[r]
    times = torch.full((rows, 5), NAN, dtype=torch.float64)
    for r, ts in enumerate(each):
        times[r, : len(ts)] = ts
    return t0, t_end, each, times


def assert_same_steps(found: Solved, expected: fastode.Solution, tolerance: float) -> None:
    """The same steps and outcomes, and states equal to rounding."""
    assert torch.equal(found.state.status, expected.status)
    assert torch.equal(found.state.n_accepted, expected.stats.n_accepted)
    assert torch.equal(found.state.n_rejected, expected.stats.n_rejected)
    assert torch.equal(found.ys.isnan(), expected.ys.isnan())
    torch.testing.assert_close(found.state.t, expected.t, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.ys, expected.ys, rtol=tolerance, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(found.y, expected.y, rtol=tolerance, atol=tolerance)


def by_cpu(
    found: Traced, y0: Tensor, t0: Tensor, t_end: Tensor, each: list[Tensor], rtol: float, atol: float
) -> fastode.Solution:
    """The solve of a program by the step loop, with the program's meaning in torch as the field."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        seen = y[:, : found.program.state_width]
        return evaluate(found.program, t, seen, found.arguments, found.constants)[0]

    return fastode.solve(func, y0, t_span=(t0, t_end), t_eval=each, rtol=rtol, atol=atol, compact=False)
