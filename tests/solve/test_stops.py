"""Times on which steps must end, jumps of the field, and steps of a given size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastode import Status, solve
from fastode.methods import lookup
from fastode.tableau import ButcherTableau

from .fields import decay, tensor, van_der_pol

double = torch.float64
each_engine = pytest.mark.parametrize("engine", ["native", "reference"])


class Recorded:
    """A field that notes at which times each row was evaluated."""

    def __init__(self, n: int) -> None:
        self.times: list[list[float]] = [[] for _ in range(n)]

    def __call__(self, t: Tensor, y: Tensor, row: Tensor) -> Tensor:
        for r, at in zip(row.tolist(), t.tolist(), strict=True):
            self.times[r].append(at)
        return torch.ones_like(y)


@each_engine
def test_steps_of_a_given_size_are_where_they_should_be(engine: str) -> None:
    field = Recorded(3)
    row, h = torch.arange(3), tensor(0.5, 0.25, 1.0)
    span = (tensor(0.0, 0.0, 1.0), tensor(1.25, -0.5, 4.0))
    found = solve(
        field, torch.zeros(3, 1, dtype=double), span, args=(row,), method="euler", first_step=h, engine=engine
    )
    # the last is the first slope of a step that was not needed
    assert field.times[0][:4] == [0.0, 0.5, 1.0, 1.25]
    assert field.times[1][:3] == [0.0, -0.25, -0.5]
    assert field.times[2] == [1.0, 2.0, 3.0, 4.0]
    assert found.stats.n_accepted.tolist() == [3, 2, 3]
    assert found.stats.n_rejected.tolist() == [0, 0, 0]
    assert torch.equal(found.y[:, 0], span[1] - span[0])


@each_engine
def test_outputs_of_steps_of_a_given_size_are_ends_of_steps(engine: str) -> None:
    field = Recorded(2)
    ts = torch.stack([tensor(0.0, 0.3, 1.0), tensor(0.5, 0.75, 1.0)])
    span = (0.0, 1.0)
    solve(
        field,
        torch.zeros(2, 1, dtype=double),
        span,
        ts,
        args=(torch.arange(2),),
        method="euler",
        first_step=0.4,
        engine=engine,
    )
    assert field.times[0][:4] == [0.0, 0.3, pytest.approx(0.7), 1.0]
    assert field.times[1][:5] == [0.0, 0.4, 0.5, 0.75, 1.0]


@each_engine
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)])
def test_methods_without_an_error_estimate_have_their_order_in_every_row(method: str, order: int, engine: str) -> None:
    y0, rate = torch.ones(3, 2, dtype=double), tensor(0.5, 1.0, -1.0)
    end = tensor(1.0, 2.0, -1.0)
    errors = []
    for n in (16, 32):
        h = end.abs() / n
        found = solve(decay, y0, (0.0, end), args=(rate,), method=method, first_step=h, engine=engine)
        assert (found.stats.n_accepted == n).all()
        errors.append((found.y - torch.exp(-rate * end)[:, None]).abs()[:, 0])
    assert torch.allclose((errors[0] / errors[1]).log2(), tensor(*[order] * 3), atol=0.3)


@each_engine
def test_a_state_that_is_not_finite_stops_a_row_of_steps_of_a_given_size(engine: str) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((y > 1.9) & (y < 3), torch.inf, torch.ones_like(y))

    y0 = tensor(0.0, 1.0)[:, None]
    found = solve(field, y0, (0.0, 1.5), method="rk4", first_step=0.25, engine=engine)
    assert found.status.tolist() == [Status.FINISHED, Status.NON_FINITE]
    assert found.y.tolist() == [[1.5], [1.75]] and found.t.tolist() == [1.5, 0.75]


@each_engine
def test_a_step_ends_on_each_rows_own_times_and_the_next_has_the_size_from_before(engine: str) -> None:
    field = Recorded(2)
    step_t = [tensor(0.75, 0.25, 9.0), tensor(-0.5)]
    found = solve(
        field, torch.zeros(2, 1, dtype=double), (0.0, tensor(2.0, -2.0)), args=(torch.arange(2),), step_t=step_t,
        first_step=tensor(0.5, 2.0), max_step=1.0, engine=engine,
    )  # fmt: skip
    before = [math.nextafter(t, 0.0) for t in (0.25, 0.75, 1.75, 2.0)]
    assert set(before) <= set(field.times[0])
    assert found.stats.n_accepted.tolist() == [4, 3]
    assert {math.nextafter(t, 0.0) for t in (-0.5, -1.5, -2.0)} <= set(field.times[1])


@each_engine
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
def test_a_jump_costs_one_evaluation_and_no_rejection(method: str, engine: str) -> None:
    jump = tensor(0.3, 0.6, 5.0, 0.5)
    end = tensor(1.0, 1.0, 1.0, 0.5)
    y0 = torch.zeros(4, 1, dtype=double)

    def field(t: Tensor, y: Tensor, jump: Tensor) -> Tensor:
        return torch.where(t < jump, 1.0, -2.0)[:, None].expand_as(y)

    kwargs = {"method": method, "engine": engine, "first_step": 0.1, "rtol": 1e-9, "atol": 1e-9}
    found = solve(field, y0, (0.0, end), args=(jump,), jump_t=jump[:, None], **kwargs)  # type: ignore[arg-type]
    expected = torch.minimum(jump, end) - 2 * (end - jump).clamp(min=0)
    torch.testing.assert_close(found.y[:, 0], expected, rtol=0, atol=1e-14)
    assert (found.stats.n_rejected == 0).all()
    without = solve(field, y0, (0.0, end), args=(jump,), **kwargs)  # type: ignore[arg-type]
    assert (without.stats.n_rejected[:2] > 5).all()
    tableau = lookup(method)
    assert isinstance(tableau, ButcherTableau)
    extra = torch.tensor([1, 1, 0, 0]) if tableau.last_stage_is_solution else found.stats.n_accepted
    assert torch.equal(found.stats.n_func, 1 + (tableau.stages - 1) * found.stats.n_steps + extra)
    for i in range(4):
        one = slice(i, i + 1)
        alone = solve(field, y0[one], (0.0, end[one]), args=(jump[one],), jump_t=jump[one, None], **kwargs)  # type: ignore[arg-type]
        assert torch.equal(alone.y[0], found.y[i])
        assert int(alone.stats.n_func) == int(found.stats.n_func[i]) == alone.stats.n_calls


def test_jumps_in_a_batch_that_stays_whole() -> None:
    jump = tensor(0.3, 0.6)
    y0 = torch.zeros(2, 1, dtype=double)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < jump, 1.0, -2.0)[:, None].expand_as(y)

    whole = solve(field, y0, (0.0, 1.0), jump_t=jump[:, None], compact=False)
    torch.testing.assert_close(whole.y[:, 0], jump - 2 * (1 - jump))


def test_a_time_given_twice_is_one_stop_and_a_jump_wins() -> None:
    y0 = torch.ones(2, 1, dtype=double)
    same = tensor(0.5, 0.5, 0.25, 1.0, 0.0, 2.0)
    once = solve(decay, y0, (0.0, 1.0), args=(tensor(1.0, 2.0),), jump_t=tensor(0.5), step_t=tensor(0.25))
    twice = solve(decay, y0, (0.0, 1.0), args=(tensor(1.0, 2.0),), jump_t=tensor(0.5, 0.5), step_t=same)
    assert torch.equal(once.y, twice.y)
    assert torch.equal(once.stats.n_func, twice.stats.n_func)


@pytest.mark.parametrize("gradient", ["discrete", "autograd"])
def test_gradients_pass_stops_jumps_and_steps_of_a_given_size(gradient: str) -> None:
    y0 = torch.tensor([[2.0, 0.1], [1.0, -0.5]], dtype=double, requires_grad=True)
    mu = tensor(0.5, 1.5).requires_grad_()

    def end(y0: Tensor, mu: Tensor) -> Tensor:
        jump = torch.tensor([[0.3], [0.6]], dtype=double)

        def field(t: Tensor, y: Tensor, mu: Tensor, jump: Tensor) -> Tensor:
            return van_der_pol(t, y, torch.where(t < jump[:, 0], mu, 2 * mu))

        steps = {"first_step": 0.2, "min_step": 0.2, "max_step": 0.2}
        adaptive = solve(field, y0, (0.0, 1.0), args=(mu, jump), jump_t=jump, gradient=gradient, **steps)  # type: ignore[arg-type]
        fixed = solve(van_der_pol, y0, (0.0, 1.0), args=(mu,), method="rk4", first_step=0.3, gradient=gradient)
        return adaptive.y + fixed.y

    assert torch.autograd.gradcheck(end, (y0, mu))
