"""Sweeps of rows in Triton's interpreter give the gradients of autograd through the steps that the rows took."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from compiler.fields import lotka_volterra
from torch import Tensor

import fastode
from fastode.compiler.gpu.rows import RowRecord
from fastode.compiler.gpu.sweep_rows import sweep_rows
from fastode.methods import lookup
from gpu.fields import WIDE, Traced, traced, wide
from gpu.sweeps import Leaves, close, constants_of, step_of, sweeps

from . import solving

# torch.func.jvp uses it

DTYPES = [torch.float32, torch.float64]


def made_up(rows: int, generator: torch.Generator) -> tuple[list[list[float]], list[list[float]]]:
    """Ends of the steps and times of the outputs of rows: forward and backward, none to four steps, none to five times.

    Outputs are at the start, inside steps, at their ends, and several in one.
    """
    points, times = [], []
    for row in range(rows):
        steps = row % 5
        sizes = 0.1 + 0.3 * torch.rand(steps, generator=generator, dtype=torch.float64)
        start = 0.1 * row % 0.7
        sign = -1.0 if row % 3 == 2 else 1.0
        ends = (start + sign * torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])).tolist()
        inside = [a + x * (b - a) for a, b in pairwise(ends) for x in (0.25, 0.6)]
        chosen = [*([start] if row % 2 else []), *inside[: row % 4], *ends[1:][-1:]]
        points.append(ends)
        times.append(sorted(chosen, reverse=sign < 0))
    return points, times


def by_autograd(
    found: Traced,
    method: str,
    y: Tensor,
    points: list[list[float]],
    times: list[list[float]],
    grads: tuple[Tensor, Tensor],
) -> tuple[Any, RowRecord]:
    """The gradients, and the record that a solve with these steps would have left."""
    tableau, rows = lookup(method), len(y)
    leaves = Leaves.of(found, y)
    capacity = max(1, *(len(p) - 1 for p in points))
    record = RowRecord.for_steps(y, capacity)
    # what no step has written is not to be read
    record.times.fill_(torch.nan)
    record.states.fill_(torch.nan)
    outputs, ends = [], []
    for row in range(rows):
        slope = leaves.slope(found.program, slice(row, row + 1))
        state, left = leaves.y[row : row + 1], list(times[row])
        sign = -1 if len(points[row]) > 1 and points[row][1] < points[row][0] else 1
        while left and left[0] == points[row][0]:
            outputs.append((row, state))
            left.pop(0)
        for n, (t, t1) in enumerate(pairwise(points[row])):
            record.times[row, n] = torch.tensor([t, t1 - t, t1], dtype=torch.float64)
            record.states[row, n] = state[0].detach()
            dt = torch.tensor(t1 - t, dtype=torch.float64)
            new, quartic = step_of(tableau, slope, torch.tensor(t, dtype=torch.float64), dt, state)
            while left and sign * left[0] <= sign * t1:
                u = left.pop(0)
                outputs.append((row, new if u == t1 else quartic((u - t) / dt)))
            state = new
        ends.append(state)
    grad_ys, grad_y = grads
    seen = [0] * rows
    weights = []
    for row, _ in outputs:
        weights.append(grad_ys[row, seen[row]])
        seen[row] += 1
    values = torch.cat([*(x for _, x in outputs), *ends])
    return leaves.gradients(values, torch.cat([torch.stack(weights), grad_y])), record


def check(found: Traced, count: int, method: str = "dopri5", **settings: Any) -> None:
    """All gradients against autograd in float64."""
    points, times = made_up(count, torch.Generator().manual_seed(1))
    y = 0.5 + 0.5 * torch.rand(count, found.features, dtype=found.dtype)
    n_times = max(len(t) for t in times) + 1
    grads = (torch.randn(count, n_times, found.features, dtype=found.dtype), torch.randn_like(y))
    expected, record = by_autograd(found, method, y, points, times, grads)
    reached = torch.tensor([len(t) for t in times])
    for row, n in enumerate(reached.tolist()):
        grads[0][row, n:] = torch.nan
    padded = torch.tensor([[*t, *[torch.nan] * (n_times - len(t))] for t in times], dtype=torch.float64)
    n_steps = torch.tensor([len(p) - 1 for p in points])
    arguments = (record, n_steps, padded, reached, grads[0], grads[1].clone(), found.arguments, found.constants)
    swept = sweep_rows(sweeps(found, **settings), lookup(method), *arguments)
    close([swept.y], [expected[0]], found.dtype)
    close([*swept.arguments.values()], expected[1], found.dtype)
    close([*swept.constants.values()], expected[2], found.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keep", [True, False], ids=["in_registers", "in_memory"])
def test_rows_have_their_own_steps_and_outputs(keep: bool, dtype: torch.dtype) -> None:
    check(wide("padded_layers", dtype, 18), 18, keep_gradients=keep)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_flows(divergence: str) -> None:
    check(wide("concatsquash", torch.float64, 17, divergence), 17)


def test_columns_alone() -> None:
    found = traced(lotka_volterra, torch.ones(5, 2, dtype=torch.float64))
    check(found, 5, "tsit5", rows=8, warps=1, keep_gradients=True)


def test_per_row_arguments_and_a_wide_state() -> None:
    check(wide("conditioned", torch.float64, 17), 17, "bosh3")


def test_rows_on_which_nothing_depends_need_not_be_finite() -> None:
    found = wide("skipping", torch.float64, 17)
    points, times = made_up(17, torch.Generator().manual_seed(1))
    y = torch.rand(17, 12, dtype=torch.float64)
    grads = (torch.randn(17, 6, 12, dtype=torch.float64), torch.randn_like(y))
    silent = [3, 8, 13]
    for g in grads:
        g[silent] = 0.0
    expected, record = by_autograd(found, "dopri5", y, points, times, grads)
    record.states[silent] = float("inf")
    padded = torch.tensor([[*t, *[torch.nan] * (6 - len(t))] for t in times], dtype=torch.float64)
    reached = torch.tensor([len(t) for t in times])
    n_steps = torch.tensor([len(p) - 1 for p in points])
    given = (record, n_steps, padded, reached, grads[0], grads[1].clone(), found.arguments, found.constants)
    swept = sweep_rows(sweeps(found), lookup("dopri5"), *given)
    assert swept.y[silent].count_nonzero() == 0
    close([swept.y, *swept.constants.values()], [expected[0], *expected[2]], found.dtype)


def test_the_gradient_of_a_solve_is_that_of_the_cpu() -> None:
    torch.manual_seed(0)
    make, features = WIDE["two_hidden_layers_of_64"]
    func = make().double()
    y0 = torch.randn(17, features, dtype=torch.float64)
    found = traced(func, y0)
    t0, t_end, each, times = solving.spans(17)
    solved = solving.fused(found, y0, t0, t_end, times)
    assert solved.record.missing(solved.state) == 0
    grad_ys, grad_y = torch.randn(solved.ys.shape, dtype=torch.float64), torch.randn_like(y0)
    leaf = y0.clone().requires_grad_()
    compiled = fastode.compile(func)
    expected = fastode.solve(compiled, leaf, t_span=(t0, t_end), t_eval=each, rtol=1e-4, atol=1e-6, compact=False)
    assert torch.equal(solved.state.n_accepted, expected.stats.n_accepted)
    reached = torch.arange(times.shape[1]) < solved.reached[:, None]
    total = (expected.ys[reached] * grad_ys[reached]).sum() + (expected.y * grad_y).sum()
    constants = constants_of(func, y0)
    by_cpu = torch.autograd.grad(total, [leaf, *constants])
    given = (solved.record, solved.state.n_accepted, times, solved.reached, grad_ys, grad_y)
    swept = sweep_rows(sweeps(found), lookup("dopri5"), *given, [], found.constants)
    close([swept.y, *swept.constants.values()], by_cpu, found.dtype)
