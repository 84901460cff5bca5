"""What decides between native code and the step loop, beside the field itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.errors import InvalidArgument
from fastode.nn import CNF, MLPField

DOUBLE = torch.float64
TIMES = torch.tensor([0.0, 0.3, 0.35, 1.0], dtype=DOUBLE)


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([0.3, 1.2], dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * y * (1 + 0.5 * torch.sin(3 * t))


def state() -> Tensor:
    return torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.1, 0.4]], dtype=DOUBLE, requires_grad=True)


def solved(*args: object, solver: object = fastode.odeint, **kwargs: object) -> tuple[Tensor, fastode.SolveStats]:
    with fastode.stats() as log:
        y = solver(*args, **kwargs)  # type: ignore[operator]
    return y, log[0]


@pytest.mark.parametrize("solver", [fastode.odeint, fastode.odeint_adjoint])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_of_times(solver, sign):
    grads = []
    func = Decay()
    for field in (fastode.compile(func), func):
        t = (sign * TIMES).requires_grad_()
        y0 = state()
        y, stats = solved(field, y0, t, solver=solver, rtol=1e-10, atol=1e-10)
        assert (stats.engine == "compiled") == (field is not func), stats.reason
        weights = torch.linspace(0.5, 1.5, y.numel(), dtype=DOUBLE).view_as(y)
        grads.append(torch.autograd.grad((y * weights).sum(), [t, y0, *func.parameters()]))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_callbacks_are_called():
    class Watched(Decay):
        steps = 0

        def callback_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
            self.steps += 1

    func = Watched()
    _, stats = solved(fastode.compile(func), state(), TIMES)
    assert "callbacks" in stats.reason
    assert func.steps == stats.n_steps
    func = Decay()
    called = []
    func.callback_accept_step = lambda *at: called.append(at)
    _, stats = solved(fastode.compile(func), state(), TIMES, solver=fastode.odeint_adjoint)
    assert len(called) == stats.n_accepted > 0


def test_an_engine_that_was_asked_for_solves_rows(monkeypatch):
    monkeypatch.setenv("FASTODE_ENGINE", "reference")
    _, stats = solved(fastode.compile(lambda t, y: -y), state(), (0.0, 1.0), solver=fastode.solve)
    assert (stats.engine, "engine='reference'" in stats.reason) == ("reference", True)


def test_a_parameter_of_another_shape_is_traced_again():
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    field = fastode.compile(lambda t, y: net(y))
    before, _ = solved(field, state(), TIMES)
    net[0].weight = nn.Parameter(net[0].weight[:3].detach())
    net[0].bias = nn.Parameter(net[0].bias[:3].detach())
    net[2].weight = nn.Parameter(net[2].weight[:, :3].detach())
    after, stats = solved(field, state(), TIMES)
    assert stats.engine == "compiled"
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, fastode.odeint(lambda t, y: net(y), state(), TIMES), rtol=1e-9, atol=1e-12)


def test_options_are_checked_alike():
    field = fastode.compile(Decay())
    with pytest.raises(InvalidArgument, match="min_step"):
        fastode.odeint(field, state(), TIMES, options={"min_step": 1.0, "max_step": 0.1})
    with pytest.raises(InvalidArgument, match="safety"):
        fastode.odeint(field, state(), TIMES, options={"safety": "much"})
    _, stats = solved(field, state(), TIMES, method="rk4", options={"interp": "linear", "step_size": 0.1})
    assert stats.engine == "compiled"
    _, stats = solved(field, state(), TIMES, method="rk4", options={"interp": "cubic", "step_size": 0.1})
    assert "interp" in stats.reason


def test_tolerances_that_are_wrong():
    field, y0 = fastode.compile(Decay()), state()
    for wrong, error in (
        (-torch.ones(2), "negative"),
        (torch.ones(5), "broadcast"),
        (torch.ones(2).requires_grad_(), "grad"),
    ):
        with pytest.raises(InvalidArgument, match=error):
            fastode.odeint(field, y0, TIMES, rtol=wrong)


@pytest.mark.parametrize(("dim", "engine"), [(4, "compiled"), (12, "native")])
def test_a_field_s_own_divergence_where_it_costs_less(dim, engine):
    cnf = CNF(MLPField(dim, (8, 8)))
    cnf.log_prob(torch.randn(5, dim))
    assert cnf.served_by[0] == engine
    assert ("own divergence" in cnf.served_by[1]) == (engine == "native")


@pytest.mark.parametrize("by_row", [False, True])
def test_a_second_derivative_is_refused(by_row):
    y0, field = state(), fastode.compile(lambda t, y: torch.sin(y))
    y = fastode.solve(field, y0, (0.0, 1.0)).y if by_row else fastode.odeint(field, y0, TIMES)
    (grad,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        (y.sum() + grad.square().sum()).backward()


@pytest.mark.parametrize(
    "asked",
    [
        {"rtol": 1e-9, "atol": 1e-9},
        {"method": "rk4", "options": {"step_size": 0.01}},
        {"method": "adaptive_heun", "rtol": 1e-4, "atol": 1e-4},
        {"method": "fehlberg2", "rtol": 1e-4, "atol": 1e-4},
    ],
)
def test_a_memory_budget_changes_nothing_but_the_work(asked):
    func = Decay()
    found = []
    for memory in (None, 6 * 8 * 7, 1):
        y0 = state()
        with fastode.stats() as log:
            y = fastode.odeint(fastode.compile(func, memory=memory), y0, TIMES, **asked)
            grads = torch.autograd.grad(y.square().sum(), [y0, func.rate])
        found.append((log[1].n_func, *grads))
    (all_kept, *wanted), *others = found
    for n_func, *grads in others:
        assert n_func > all_kept
        for a, b in zip(grads, wanted, strict=True):
            assert torch.equal(a, b)


def test_a_memory_budget_must_be_positive():
    with pytest.raises(InvalidArgument, match="memory"):
        fastode.compile(Decay(), memory=0)
    field = fastode.compile(Decay(), memory=1000)
    assert fastode.compile(field, memory=1000) is field
    assert fastode.compile(field) is field
    assert fastode.compile(field, memory=2000).memory == 2000
