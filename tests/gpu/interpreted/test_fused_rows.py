"""Rows with steps of their own, solved in Triton's interpreter, take the steps of the CPU engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compiler.fields import lotka_volterra, pendulum
from compiler.solving import SHARING
from torch import Tensor

import fastode
from fastode.compiler.gpu import NotFused
from fastode.compiler.gpu.rows import solve_rows
from fastode.controller import Controller
from fastode.kernels.row_state import FINISHED, TOO_MANY_STEPS, RowState
from fastode.methods import lookup
from gpu.fields import traced, wide

from .solving import NAN, assert_same_steps, by_cpu, fused, spans


@pytest.mark.parametrize("in_memory", [False, True], ids=["registers", "memory"])
@pytest.mark.parametrize("method", SHARING)
@pytest.mark.parametrize("field", [lotka_volterra, pendulum], ids=lambda f: f.__name__)
def test_methods_take_the_steps_of_the_cpu(field: Callable[..., Tensor], method: str, in_memory: bool) -> None:
    rows = 18
    y0 = 0.2 + torch.rand(rows, 2, dtype=torch.float64)
    t0, t_end, each, times = spans(rows)
    rtol, atol = (1e-6, 1e-8) if lookup(method).order > 4 else (1e-3, 1e-5)
    expected = fastode.solve(
        fastode.compile(field), y0, t_span=(t0, t_end), t_eval=each, method=method, rtol=rtol, atol=atol
    )
    found = fused(traced(field, y0), y0, t0, t_end, times, method, rtol, atol, capacity=8, slopes_in_memory=in_memory)
    # the error estimate of dopri8 is rounding noise in places, and the steps follow it: those of the CPU's two engines
    # differ as much
    assert_same_steps(found, expected, 1e-5 if method == "dopri8" else 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["two_hidden_layers_of_64", "wide_state", "time_beside_the_state", "conditioned"])
def test_wide_fields_take_the_steps_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    rows = 5
    found = wide(name, dtype, rows)
    y0 = torch.randn(rows, found.features, dtype=dtype)
    t0, t_end, each, times = spans(rows)
    # tolerances that rounding errors of float32 do not come near
    solved = fused(found, y0, t0, t_end, times, rtol=1e-2, atol=1e-2)
    # the CPU engine on the program itself: a field that is traced anew draws other parameters
    expected = by_cpu(found, y0, t0, t_end, each, 1e-2, 1e-2)
    assert_same_steps(solved, expected, 2e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_density_is_one_more_feature(divergence: str) -> None:
    rows = 5
    found = wide("two_hidden_layers_of_64", torch.float64, rows, divergence)
    assert found.features == 3
    y0 = torch.randn(rows, 3, dtype=torch.float64)
    t0, t_end, each, times = spans(rows)
    solved = fused(found, y0, t0, t_end, times)
    assert_same_steps(solved, by_cpu(found, y0, t0, t_end, each, 1e-4, 1e-6), 1e-12)


def test_tolerances_may_differ_from_element_to_element() -> None:
    rows = 5
    y0 = 0.2 + torch.rand(rows, 2, dtype=torch.float64)
    rtol = 10.0 ** -torch.randint(3, 7, (rows, 2)).double()
    atol = 10.0 ** -torch.randint(4, 8, (rows, 2)).double()
    t0, t_end, each, times = spans(rows)
    expected = fastode.solve(fastode.compile(pendulum), y0, t_span=(t0, t_end), t_eval=each, rtol=rtol, atol=atol)
    found = fused(traced(pendulum, y0), y0, t0, t_end, times, rtol=rtol, atol=atol)
    assert_same_steps(found, expected, 1e-11)
    assert len(set(found.state.n_accepted.tolist())) > 1


def test_a_filter_of_three_errors_and_a_given_first_step_are_those_of_the_cpu() -> None:
    rows = 4
    y0 = 0.2 + torch.rand(rows, 2, dtype=torch.float64)
    t0, t_end, each, times = spans(rows)
    weights = (0.7, -0.4, 0.1)
    controller = Controller(order=5, filter=weights, factor_max=4.0, safety=0.8)
    first = torch.tensor([0.01, 0.3, 2.0, 0.05], dtype=torch.float64)
    expected = fastode.solve(
        fastode.compile(pendulum), y0, t_span=(t0, t_end), t_eval=each, rtol=1e-5, atol=1e-7,
        controller=weights, factor_max=4.0, safety=0.8, first_step=first,
    )  # fmt: skip
    found = fused(
        traced(pendulum, y0), y0, t0, t_end, times, rtol=1e-5, atol=1e-7, controller=controller, first_step=first
    )
    assert_same_steps(found, expected, 1e-11)
    assert found.state.n_rejected.sum() > 0


def leaves_its_domain(t: Tensor, y: Tensor) -> Tensor:
    """Not a number above 5."""
    return y + (torch.sqrt(5.0 - y) - torch.sqrt(5.0 - y))


def grows_beyond_all_bounds(t: Tensor, y: Tensor) -> Tensor:
    """Infinite at ``1 / y0``."""
    return y * y


@pytest.mark.parametrize("field", [leaves_its_domain, grows_beyond_all_bounds], ids=lambda f: f.__name__)
def test_rows_stop_for_their_own_reasons(field: Callable[..., Tensor]) -> None:
    y0 = torch.tensor([[1.0], [7.0], [0.1], [0.01], [0.5], [NAN]], dtype=torch.float64)
    t0 = torch.zeros(6, dtype=torch.float64)
    t_end = torch.tensor([2.0, 2.0, 1.0, 40.0, 0.0, 1.0], dtype=torch.float64)
    times = torch.stack([t0, t_end], 1)
    times[4, 1] = NAN
    each = [ts[~ts.isnan()] for ts in times]
    expected = fastode.solve(
        fastode.compile(field), y0, t_span=(t0, t_end), t_eval=each, rtol=1e-3, atol=1e-6, max_steps=200
    )
    found = fused(traced(field, y0), y0, t0, t_end, times, rtol=1e-3, atol=1e-6, max_steps=200)
    assert found.state.status.tolist() == expected.status.tolist()
    assert len(set(found.state.status.tolist())) > 1
    # where a row can go no further depends on the last bits
    finished = found.state.status == FINISHED
    assert torch.equal(found.state.n_accepted[finished], expected.stats.n_accepted[finished])
    torch.testing.assert_close(found.state.t, expected.t, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.ys.isnan(), expected.ys.isnan())


def test_the_limit_on_attempts_stops_a_row() -> None:
    y0 = torch.ones(2, 2, dtype=torch.float64)
    t0 = torch.zeros(2, dtype=torch.float64)
    t_end = torch.tensor([0.01, 50.0], dtype=torch.float64)
    found = fused(traced(pendulum, y0), y0, t0, t_end, torch.stack([t0, t_end], 1), max_steps=5)
    assert found.state.status.tolist() == [FINISHED, TOO_MANY_STEPS]
    assert int(found.state.n_accepted[1] + found.state.n_rejected[1]) == 5
    assert found.reached.tolist() == [2, 1] and found.state.dt.tolist() == [0.0, 0.0]


def test_accepted_steps_are_recorded_and_missing_ones_counted() -> None:
    rows = 3
    y0 = 0.2 + torch.rand(rows, 2, dtype=torch.float64)
    t0, t_end, _, times = spans(rows)
    found = traced(pendulum, y0)
    whole = fused(found, y0, t0, t_end, times, capacity=32)
    assert whole.record.missing(whole.state) == 0
    for r in range(rows):
        n = int(whole.state.n_accepted[r])
        steps = whole.record.times[r, :n]
        assert steps[0, 0] == t0[r] and steps[-1, 2] == t_end[r]
        assert torch.equal(steps[1:, 0], steps[:-1, 2])
        assert torch.equal(whole.record.states[r, 0], y0[r])
        assert whole.record.times[r, n:].isnan().all() and whole.record.states[r, n:].isnan().all()
    short = fused(found, y0, t0, t_end, times, capacity=2)
    assert short.record.missing(short.state) == int(whole.state.n_accepted.max()) - 2
    assert torch.equal(short.record.states, whole.record.states[:, :2])
    assert torch.equal(short.y, whole.y)


def test_one_row_of_one_feature_is_a_batch() -> None:
    def decay(t: Tensor, y: Tensor) -> Tensor:
        return -y

    y0 = torch.ones(1, 1, dtype=torch.float64)
    t0, t_end = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    found = fused(traced(decay, y0), y0, t0, t_end, torch.tensor([[0.0, 0.5, 1.0]]).double(), rtol=1e-8, atol=1e-10)
    expected = torch.exp(-torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).reshape(1, 3, 1)
    torch.testing.assert_close(found.ys, expected, rtol=1e-6, atol=1e-7)
    assert found.reached.tolist() == [3] and found.state.status.tolist() == [FINISHED]


def test_what_the_kernels_do_not_do_is_refused() -> None:
    y0 = torch.ones(2, 2, dtype=torch.float64)
    found = traced(pendulum, y0)
    t0 = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(NotFused, match="without an error estimate"):
        fused(found, y0, t0, t0 + 1, t0[:, None], method="rk4")
    state = RowState.begin(t0, t0 + 1, None, torch.full((2, 1), 0.5, dtype=torch.float64))
    tolerances = (torch.ones(1, dtype=torch.float64),) * 2
    arguments = (found.fused(), lookup("dopri5"), y0, [], [], state, tolerances, Controller(5), 10)
    with pytest.raises(NotFused, match="steps must end"):
        solve_rows(
            *arguments, t0[:, None], torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1, 2, dtype=torch.float64)
        )
