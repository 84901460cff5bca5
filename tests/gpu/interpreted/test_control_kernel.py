"""The controller's kernel beside the controllers that run on the host: every row alike, on any error."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fastode.clock import LockstepClock
from fastode.controller import Controller
from fastode.errors import StepSizeUnderflow, TooManySteps
from fastode.kernels.reference.control import RowControl
from fastode.kernels.row_state import RUNNING, STEP_UNDERFLOW, TOO_MANY_STEPS, RowState
from fastode.kernels.torch_step import stage_times
from fastode.kernels.triton import DeviceState, PartialSums, control
from fastode.methods import lookup
from fastode.stats import SolveStats

ERRORS = [0.0, 1.0, math.nextafter(1.0, 2.0), 0.5, 2.0, 1e-12, 1e-300, 5e-324, 1e300, math.inf, math.nan, 0.99, 40.0]
NODES = lookup("dopri5").nodes


def sums_of(errors: Tensor, parts: int = 1) -> PartialSums:
    """Partial sums whose norms are ``errors``: one element a row, in the last part."""
    like = [torch.zeros(len(errors), 1)] * parts
    partial = PartialSums.of(like, len(errors), lockstep=len(errors) == 1)
    partial.sums.zero_()
    partial.sums[-1] = errors * errors
    return partial


def norm_of(errors: Tensor) -> Tensor:
    """What is left of an error that was squared."""
    return (errors * errors).sqrt()


@pytest.mark.parametrize("filter_", [(1.0, 0.0, 0.0), (0.7, -0.4, 0.0), (0.58, -0.21, 0.1)], ids=["I", "PI", "PID"])
@pytest.mark.parametrize("dt_min", [0.0, 0.05])
def test_rows_are_controlled_as_by_the_reference(filter_: tuple[float, float, float], dt_min: float) -> None:
    cases = list(itertools.product(ERRORS, [1.0, -1.0], [0.02, 0.3, 5.0], [0.01, 0.6]))
    rows = len(cases)
    rule = Controller(order=5, dt_min=dt_min, dt_max=2.0, filter=filter_)
    err, sign, size, older = (torch.tensor(c, dtype=torch.float64) for c in zip(*cases, strict=True))
    t0 = torch.rand(rows).double()
    stops = (t0 + sign * 0.25)[:, None]
    reference = RowState.begin(t0, t0 + sign, size, stops)
    expected = RowControl(reference, rule, 7)
    no_outputs = torch.full((rows, 1), math.nan, dtype=torch.float64)
    state = DeviceState.begin(t0, t0 + sign, stops, no_outputs, 7, torch.float64, rule, 7)
    state.real("size").copy_(size)
    for name, column in (("history", 0), ("older", 1)):
        state.real(name).copy_(older * (column + 1))
        reference.history[:, column] = older * (column + 1)
    expected.start()
    control(state, sums_of(err), NODES, lockstep=False, start=True)
    for attempt in range(9):
        assert torch.equal(state.real("dt"), reference.dt), attempt
        assert torch.equal(state.real("t1"), reference.t1)
        assert torch.equal(state.count("status"), reference.status.long())
        running = reference.status == RUNNING
        wanted = stage_times(NODES, reference.t, reference.dt, reference.t1, torch.float64)
        assert torch.equal(state.times[:, running], wanted[:, running])
        error = norm_of(err.roll(attempt))
        reference.err.copy_(error)
        expected.control()
        control(state, sums_of(err.roll(attempt)), NODES, lockstep=False)
        for name in ("accept", "n_accepted", "n_rejected", "next_stop", "status"):
            assert torch.equal(state.count(name), getattr(reference, name).long()), (name, attempt)
        torch.testing.assert_close(state.real("size"), reference.size, rtol=1e-13, atol=0, equal_nan=True)
        assert torch.equal(state.real("t"), reference.t)
        # rounding of the powers must not add up
        state.real("size").copy_(reference.size)
        state.real("dt").copy_(reference.dt)
        state.real("t1").copy_(reference.t1)
        state.times.copy_(stage_times(NODES, reference.t, reference.dt, reference.t1, torch.float64))
    assert bool((state.count("status") == TOO_MANY_STEPS).any())


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("err", ERRORS)
def test_one_shared_step_is_controlled_as_by_the_host(err: float, direction: float) -> None:
    rule = Controller(order=5, dt_max=0.5)
    step_t = [direction * v for v in (0.25, 0.26, 0.9)]
    clock = LockstepClock(0.0, direction, rule, SolveStats(), step_t=step_t, jump_t=[], max_steps=4, max_total_steps=11,
                          round_time=float)  # fmt: skip
    clock.dt = 0.1
    due = direction * torch.tensor([[0.01, 0.02, 0.28, 1.0, math.nan]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    stops = torch.tensor([step_t], dtype=torch.float64)
    state = DeviceState.begin(zero, zero + direction, stops, due, 7, torch.float32, rule, 11, 4)
    state.real("size").fill_(0.1)
    control(state, sums_of(zero), NODES, lockstep=True, start=True)
    errors = [0.3, err, 0.5, 3.0, err, 0.2, 0.1, 0.9, 1e-3, 0.5, 0.5, 0.5]
    passed = 0
    for error in errors:
        try:
            t, dt, t1 = clock.propose()
        except StepSizeUnderflow:
            assert int(state.count("status")) == STEP_UNDERFLOW
            return
        except TooManySteps:
            assert int(state.count("status")) == TOO_MANY_STEPS
            return
        assert int(state.count("status")) == RUNNING
        found = [float(state.real(name)) for name in ("t", "dt", "t1")]
        assert found == pytest.approx([t, dt, t1], rel=1e-13, abs=0)
        control(state, sums_of(torch.tensor([error]).double()), NODES, lockstep=True)
        before = clock.t
        accept = clock.judge(float(norm_of(torch.tensor(error).double())))
        assert bool(state.count("accept")) == accept
        assert float(state.real("tried_t")) == pytest.approx(before, rel=1e-13, abs=0)
        first, last = int(state.count("first_output")), int(state.count("next_output"))
        assert first == passed
        if accept:
            passed = int((direction * due[0, :4] <= direction * clock.t).sum())
            if passed > first:
                clock.since_output = 0
        assert last == passed
        if passed == 4:
            assert int(state.count("status")) == 1
            return
    raise AssertionError("neither limit nor end was reached")


def test_the_norm_is_the_largest_of_the_parts_and_a_nan_in_any_part_is_one() -> None:
    rule = Controller(order=5)
    zero = torch.zeros(3, dtype=torch.float64)
    state = DeviceState.begin(zero, zero + 1, zero.new_empty(3, 0), zero[:, None] * math.nan, 7, torch.float64, rule, 9)
    state.real("size").fill_(0.1)
    partial = PartialSums.of([torch.zeros(3, 5000), torch.zeros(3, 2)], 3)
    assert partial.first == (0, 2, 3)
    partial.sums.copy_(torch.tensor([[2.0, 0.0, math.nan], [3.0, 0.0, 0.0], [8.0, 32.0, 0.0]]))
    control(state, partial, NODES, lockstep=False, start=True)
    control(state, partial, NODES, lockstep=False)
    assert state.real("err")[:2].tolist() == [2.0, 4.0]
    assert bool(state.real("err")[2].isnan())


def test_more_outputs_than_are_looked_at_at_once_are_all_found() -> None:
    rule = Controller(order=5)
    zero = torch.zeros(2, dtype=torch.float64)
    due = torch.cat([torch.linspace(0.001, 0.5, 300).double(), torch.tensor([math.nan])]).repeat(2, 1)
    for rows in (1, 2):
        state = DeviceState.begin(zero[:rows], zero[:rows] + 1, zero.new_empty(rows, 0), due[:rows], 7, torch.float64,
                                  rule, 9)  # fmt: skip
        state.real("size").fill_(0.25)
        partial = sums_of(zero[:rows] + 0.5)
        control(state, partial, NODES, lockstep=rows == 1, start=True)
        control(state, partial, NODES, lockstep=rows == 1)
        assert state.count("next_output").tolist() == [int((due[0] <= 0.25).sum())] * rows
