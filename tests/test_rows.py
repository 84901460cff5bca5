"""The step loop with a step size for each row: the same kernels and the same loop as in lockstep."""

import pytest
import torch

from fastode.controller import Controller
from fastode.field import Field
from fastode.kernels import Engine
from fastode.loop import Step, integrate
from fastode.methods import lookup
from fastode.problem import Problem
from fastode.rows import FINISHED, UNDERFLOW, RowsClock
from fastode.stats import new_stats


class Last:
    """Keeps the state of every row as it was last committed."""

    def start(self, t, y):
        self.y = y
        return False

    def accepted(self, step: Step) -> bool:
        self.y = RowsClock.select(step.accept, step.y1, self.y)
        return False


def solve_rows(field, y0, t0, t_end, first_step, engine, method="dopri5", tol=1e-6):
    stats = new_stats(method)
    problem = Problem(
        Field(field, (), (y0,), None, stats), (y0,), torch.tensor([0.0, 1.0]), [tol], [tol], "rms", 1.0,
        torch.float64, None, stats,
    )  # fmt: skip
    tableau = lookup(method)
    clock = RowsClock(t0, t_end, first_step, Controller(tableau.order), stats)
    last = Last()
    integrate(problem, tableau, Engine(engine, ""), clock, last)
    return last.y[0], clock


def van_der_pol(mu):
    def field(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, mu[: len(y)] * (1 - x * x) * v - x], dim=-1)

    return field


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8"])
def test_a_row_takes_the_steps_it_takes_alone(engine, method):
    mu = torch.tensor([0.5, 2.0, 5.0, 1.0], dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(4, 1)
    t0 = torch.zeros(4, dtype=torch.float64)
    t_end = torch.tensor([3.0, 2.0, 1.0, -1.5], dtype=torch.float64)
    first = torch.full((4,), 0.01, dtype=torch.float64)
    together, clock = solve_rows(van_der_pol(mu), y0, t0, t_end, first, engine, method)
    assert (clock.status == FINISHED).all()
    assert torch.equal(clock.t, t_end)
    for i in range(4):
        one = slice(i, i + 1)
        alone, own = solve_rows(van_der_pol(mu[one]), y0[one], t0[one], t_end[one], first[one], engine, method)
        assert torch.equal(together[one], alone)
        assert clock.n_accepted[i] == own.n_accepted[0]
        assert clock.n_rejected[i] == own.n_rejected[0]


def test_rows_of_both_engines_agree():
    mu = torch.linspace(0.5, 4, 7, dtype=torch.float64)
    y0 = torch.randn(7, 2, dtype=torch.float64)
    ones = torch.ones(7, dtype=torch.float64)
    a, _ = solve_rows(van_der_pol(mu), y0, 0 * ones, 2 * ones, 0.05 * ones, "native")
    b, _ = solve_rows(van_der_pol(mu), y0, 0 * ones, 2 * ones, 0.05 * ones, "reference")
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_row_that_fails_stops_alone_and_keeps_its_last_good_state(engine):
    def field(t, y):
        return torch.where((t > 0.5)[:, None] & (y > 50), torch.nan, -y)

    y0 = torch.tensor([[1.0], [100.0], [2.0]], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    y, clock = solve_rows(field, y0, 0 * ones, ones, 0.01 * ones, engine)
    assert clock.status.tolist() == [FINISHED, UNDERFLOW, FINISHED]
    torch.testing.assert_close(y[[0, 2]], y0[[0, 2]] * torch.exp(-ones[[0, 2], None]), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(y[1]).all()
    assert 0 < clock.t[1] <= 0.5


def test_a_row_of_no_length_is_finished_before_it_starts():
    ones = torch.ones(2, dtype=torch.float64)
    t_end = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y, clock = solve_rows(lambda t, y: -y, torch.ones(2, 1, dtype=torch.float64), 0 * ones, t_end, 0.1 * ones, "native")
    assert clock.n_accepted[0] == 0
    assert y[0] == 1
