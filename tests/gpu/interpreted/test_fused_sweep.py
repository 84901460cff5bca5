"""Sweeps of lockstep solves in Triton's interpreter give the gradients of autograd through the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from compiler.fields import lotka_volterra
from torch import Tensor

import fastode
from fastode.compiler.gpu import fused_sweep
from fastode.compiler.gpu.fused_sweep import FusedSweep
from fastode.compiler.gpu.refusal import NotFused
from fastode.compiler.gpu.settings import Settings
from fastode.compiler.gpu.sweep import sweep_steps
from fastode.methods import lookup
from gpu.fields import WIDE, Traced, traced, wide
from gpu.sweeps import Leaves, close, constants_of, step_of, sweeps

# torch.func.jvp uses it

DTYPES = [torch.float32, torch.float64]
#: of the steps; the first output is the initial state, some are inside steps and some at their ends
POINTS = [0.1, 0.35, 0.5, 0.95]
TIMES = [0.1, 0.15, 0.3, 0.5, 0.6, 0.95]


def record(points: Sequence[float], times: Sequence[float]) -> tuple[Tensor, int]:
    """The steps between ``points`` as a sweep takes them, and how many outputs are the initial state."""
    sign = 1 if len(points) < 2 or points[1] > points[0] else -1
    at_start = sum(u == points[0] for u in times)
    steps, output = [], at_start
    for t, t1 in pairwise(points):
        first = output
        while output < len(times) and sign * times[output] <= sign * t1:
            output += 1
        steps.append([t, t1 - t, t1, first, output])
    return torch.tensor(steps, dtype=torch.float64).reshape(-1, 5), at_start


def check(
    found: Traced,
    count: int,
    points: Sequence[float] = POINTS,
    times: Sequence[float] = TIMES,
    method: str = "dopri5",
    **settings: Any,
) -> None:
    """All gradients against autograd in float64."""
    tableau = lookup(method)
    y = torch.randn(count, found.features, dtype=found.dtype) * 0.5
    grad = torch.randn(len(times), count, found.features, dtype=found.dtype)
    steps, at_start = record(points, times)
    leaves = Leaves.of(found, y)
    slope, state = leaves.slope(found.program), leaves.y
    states, outputs = [], [state] * at_start
    for t, dt, t1, first, end in steps:
        states.append(state.detach().to(found.dtype))
        new, quartic = step_of(tableau, slope, t, dt, state)
        for u in times[int(first) : int(end)]:
            outputs.append(new if u == t1 else quartic((u - t) / dt))
        state = new
    expected = leaves.gradients(torch.stack(outputs), grad)
    given = (
        torch.stack(states) if states else y.new_empty(0, *y.shape),
        torch.tensor(times, dtype=torch.float64),
        at_start,
        grad,
        found.arguments,
        found.constants,
    )
    swept = sweep_steps(sweeps(found, **settings), tableau, steps, *given)
    close([swept.y], [expected[0]], found.dtype)
    close([*swept.arguments.values()], expected[1], found.dtype)
    close([*swept.constants.values()], expected[2], found.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keep", [True, False], ids=["in_registers", "in_memory"])
def test_outputs_inside_and_at_the_ends_of_steps(keep: bool, dtype: torch.dtype) -> None:
    check(wide("padded_layers", dtype, 19, shared_time=True), 19, keep_gradients=keep)


def test_steps_backwards_in_time() -> None:
    points, times = [-x for x in POINTS], [-x for x in TIMES]
    check(wide("time_beside_the_state", torch.float64, 17, shared_time=True), 17, points, times)


@pytest.mark.parametrize("keep", [True, False], ids=["in_registers", "in_memory"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_flows_and_their_noise(divergence: str, keep: bool) -> None:
    # the closed form uses a constant that is computed from two others, beside these
    found = wide("two_hidden_layers_of_64", torch.float64, 3, divergence, shared_time=True)
    check(found, 3, [0.0, 0.3, 0.5], [0.0, 0.2, 0.5], keep_gradients=keep)


@pytest.mark.parametrize("name", ["gru", "normed", "mirrored", "skipping", "conditioned"])
def test_fields_whose_values_are_tiles_and_columns(name: str) -> None:
    check(wide(name, torch.float64, 17, shared_time=True), 17, [0.0, 0.3], [0.3])


@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dopri8"])
def test_other_methods(method: str) -> None:
    check(wide("padded_layers", torch.float64, 5, shared_time=True), 5, [0.0, 0.4], [0.1, 0.4], method)


@pytest.mark.parametrize("keep", [True, False], ids=["in_registers", "in_memory"])
def test_columns_alone_need_no_wide_tiles(keep: bool) -> None:
    found = traced(lotka_volterra, torch.ones(11, 2, dtype=torch.float64), shared_time=True)
    check(found, 11, rows=4, warps=1, keep_gradients=keep)


def test_one_row_and_no_steps() -> None:
    found = wide("padded_layers", torch.float64, 1, shared_time=True)
    check(found, 1, [0.0, 0.5], [0.2])
    check(found, 1, [0.5], [0.5, 0.5])


def test_an_empty_batch_has_gradients_of_zero() -> None:
    found = wide("padded_layers", torch.float64, 2, shared_time=True)
    steps, at_start = record([0.0, 1.0], [1.0])
    empty = torch.zeros(1, 0, 3, dtype=torch.float64)
    given = (torch.ones(1, dtype=torch.float64), at_start, empty, [], found.constants)
    swept = sweep_steps(sweeps(found), lookup("dopri5"), steps, empty, *given)
    assert swept.y.shape == (0, 3)
    assert [g.shape for g in swept.constants.values()] == [c.shape for c in found.constants]
    assert all(g.count_nonzero() == 0 for g in swept.constants.values())


def test_only_what_is_asked_for_is_found() -> None:
    found = wide("conditioned", torch.float64, 5, shared_time=True)
    sweep = FusedSweep(found.program, torch.float64, True, [1], [], Settings(rows=16))
    steps, at_start = record([0.0, 0.5], [0.5])
    y = torch.randn(5, 12, dtype=torch.float64)
    given = (y[None], torch.tensor([0.5], dtype=torch.float64), at_start, torch.ones_like(y)[None])
    inputs = (found.arguments, found.constants)
    some = sweep_steps(sweep, lookup("dopri5"), steps, *given, *inputs)
    everything = sweep_steps(sweeps(found), lookup("dopri5"), steps, *given, *inputs)
    assert not some.arguments and list(some.constants) == [1]
    assert torch.equal(some.constants[1], everything.constants[1])
    assert torch.equal(some.y, everything.y)


def test_the_sums_do_not_depend_on_the_programs_that_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wide("padded_layers", torch.float64, 70, shared_time=True)
    check(found, 70, [0.0, 0.3], [0.3])
    monkeypatch.setattr(fused_sweep, "MOST_PROGRAMS", 2)
    check(found, 70, [0.0, 0.3], [0.3])


def test_the_gradient_of_a_solve_is_that_of_the_cpu() -> None:
    torch.manual_seed(0)
    make, features = WIDE["two_hidden_layers_of_64"]
    func = make().double()
    y0 = torch.randn(17, features, dtype=torch.float64)
    found = traced(func, y0, shared_time=True)
    times = torch.tensor([0.0, 0.1, 0.7, 1.0], dtype=torch.float64)
    tolerances = {"rtol": 1e-5, "atol": 1e-6}
    taken = []

    class Watched(torch.nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return func(t, y)

        def callback_accept_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
            taken.append((float(t), y.clone(), float(dt)))

    with torch.no_grad():
        fastode.odeint(Watched(), y0, times, **tolerances)
    points = [*(t for t, _, _ in taken), taken[-1][0] + taken[-1][2]]
    steps, at_start = record(points, times.tolist())
    assert len(steps) > 2 and int(steps[-1, 4]) == len(times)
    leaf = y0.clone().requires_grad_()
    ys = fastode.odeint(fastode.compile(func), leaf, times, **tolerances)
    grad = torch.randn_like(ys)
    expected = torch.autograd.grad(ys, [leaf, *constants_of(func, y0)], grad)
    states = torch.stack([y for _, y, _ in taken])
    swept = sweep_steps(sweeps(found), lookup("dopri5"), steps, states, times, at_start, grad, [], found.constants)
    close([swept.y, *swept.constants.values()], expected, found.dtype)


def test_methods_of_another_kind_are_refused() -> None:
    found = wide("padded_layers", torch.float64, 2, shared_time=True)
    empty = torch.zeros(1, 0, 3, dtype=torch.float64)
    with pytest.raises(NotFused, match="without an error estimate"):
        sweep_steps(sweeps(found), lookup("rk4"), torch.zeros(1, 5), empty, torch.ones(1), 0, empty, [], [])


def test_tiles_of_few_rows_are_refused_where_they_are_multiplied() -> None:
    found = wide("padded_layers", torch.float64, 2, shared_time=True)
    with pytest.raises(NotFused, match="16 rows at least, not 8"):
        sweeps(found, rows=8)
