"""Gradients of solves in which every row has its own steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastode
from fastode import Status, solve

from .fields import Net, van_der_pol

double = torch.float64
GRADIENTS = ("discrete", "autograd")
each_gradient = pytest.mark.parametrize("gradient", GRADIENTS)
TIMES = torch.tensor([[0.0, 0.2, 0.9], [0.1, 0.5, 1.4], [0.0, -0.3, -0.8], [0.0, 0.01, 0.02]], dtype=double)


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5", "dopri8", "tsit5"])
def test_both_gradients_are_those_of_the_rows_alone(method: str, engine: str) -> None:
    net = Net()
    y0 = torch.randn(4, 3, dtype=double, requires_grad=True)
    scale = torch.linspace(0.5, 3.0, 4, dtype=double, requires_grad=True)
    inputs = (y0, scale, *net.parameters())
    found = []
    for gradient in GRADIENTS:
        s = solve(net, y0, t_eval=TIMES, args=(scale,), gradient=gradient, method=method, engine=engine)
        found.append(torch.autograd.grad(s.ys.sin().sum() + s.y.square().sum(), inputs))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    totals = [torch.zeros_like(x) for x in inputs]
    for i in range(4):
        one = slice(i, i + 1)
        s = solve(net, y0[one], t_eval=TIMES[one], args=(scale[one],), method=method, engine=engine)
        own = torch.autograd.grad(s.ys.sin().sum() + s.y.square().sum(), inputs)
        totals = [t + g for t, g in zip(totals, own, strict=True)]
    for a, b in zip(found[0], totals, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("gradient", ["discrete", "backsolve"])
def test_cotangents_that_are_views(gradient: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    y0 = torch.randn(4, 2, dtype=double, requires_grad=True)
    inputs = (y0, *net.parameters())

    def field(t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = net(torch.cat([t[:, None], y], 1))
        return out

    found = []
    for way in (gradient, "autograd"):
        s = solve(field, y0, t_eval=TIMES, gradient=way, rtol=1e-9, atol=1e-9, params=tuple(net.parameters()))
        found.append(torch.autograd.grad(s.ys.sin().sum() + s.y.square().sum(), inputs))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_gradient_is_that_of_an_exact_solve() -> None:
    y0 = torch.randn(3, 2, dtype=double, requires_grad=True)
    mu = torch.tensor([0.5, 1.0, 2.0], dtype=double, requires_grad=True)
    t = torch.tensor([0.0, 0.7, 2.0], dtype=double)
    s = solve(van_der_pol, y0, t_eval=t, args=(mu,), rtol=1e-9, atol=1e-9)
    found = torch.autograd.grad(s.ys.sin().sum(), (y0, mu))
    exact = fastode.odeint(lambda t, y: van_der_pol(t, y, mu), y0, t, rtol=1e-11, atol=1e-11)
    expected = torch.autograd.grad(exact.sin().sum(), (y0, mu))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@each_gradient
def test_gradcheck(gradient: str) -> None:
    net = Net()
    y0 = torch.randn(2, 3, dtype=double, requires_grad=True)
    scale = torch.tensor([0.5, 1.5], dtype=double, requires_grad=True)
    # a step that does not depend on the inputs: its size is a constant for differentiation
    steps = {"first_step": 0.25, "min_step": 0.25, "max_step": 0.25}

    def end(y0: Tensor, scale: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        s = solve(net, y0, t_eval=TIMES[:2], args=(scale,), gradient=gradient, **steps)  # type: ignore[arg-type]
        return s.ys, s.y

    assert torch.autograd.gradcheck(end, (y0, scale, *net.parameters()))
    if gradient == "autograd":
        assert torch.autograd.gradgradcheck(end, (y0, scale, *net.parameters()), atol=1e-4)


def test_the_discrete_gradient_cannot_be_differentiated_again() -> None:
    y0 = torch.ones(2, 1, dtype=double, requires_grad=True)
    y = solve(lambda t, y: -y * y, y0, (0.0, 1.0)).y
    (g,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(g.sum(), y0)


@each_gradient
def test_a_row_that_fails_has_a_finite_gradient_and_leaves_the_others_theirs(gradient: str) -> None:
    weight = torch.tensor(1.0, dtype=double, requires_grad=True)

    class Field(torch.nn.Module):
        def forward(self, t: Tensor, y: Tensor, w: Tensor) -> Tensor:
            return torch.where((t[:, None] > 0.5) & (y > 50), torch.nan, -w * y)

    y0 = torch.tensor([[1.0], [100.0], [2.0]], dtype=double, requires_grad=True)
    ts = torch.linspace(0, 1, 3, dtype=double)
    s = solve(Field(), y0, t_eval=ts, args=(weight,), gradient=gradient)
    assert s.status.tolist() == [Status.FINISHED, Status.NON_FINITE, Status.FINISHED]
    loss = s.ys.nan_to_num().sum() + s.y.sum()
    of_weight, of_y0 = torch.autograd.grad(loss, (weight, y0))
    assert of_weight.isfinite() and of_y0.isfinite().all()
    good = solve(Field(), y0[[0, 2]], t_eval=ts, args=(weight,), gradient=gradient)
    (expected,) = torch.autograd.grad(good.ys.sum() + good.y.sum(), y0)
    assert torch.equal(of_y0[[0, 2]], expected[[0, 2]])


@each_gradient
def test_arguments_that_are_results_themselves_and_one_tensor_in_two_places(gradient: str) -> None:
    log_scale = torch.tensor([0.1, 0.2], dtype=double, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=double)
    weight = torch.nn.Parameter(torch.tensor([[0.5]], dtype=double))

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, t: Tensor, y: Tensor, scale: Tensor, again: Tensor) -> Tensor:
            return -scale[:, None] * (self.weight + 2 * again[0]) * y

    def loss(a: Tensor, w: Tensor) -> Tensor:
        return torch.exp(-a.exp() * 3 * w.squeeze()).sum()

    found = solve(Field(), y0, (0.0, 1.0), args=(log_scale.exp(), weight), gradient=gradient, rtol=1e-9, atol=1e-9)
    a, b = torch.autograd.grad(found.y.sum(), (log_scale, weight))
    expected = torch.autograd.grad(loss(log_scale, weight), (log_scale, weight))
    torch.testing.assert_close(a, expected[0], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(b, expected[1], rtol=1e-7, atol=1e-8)


def test_the_backward_pass_has_its_own_account() -> None:
    y0 = torch.ones(2, 1, dtype=double, requires_grad=True)
    with fastode.stats() as log:
        s = solve(lambda t, y: -y, y0, (0.0, 1.0))
        assert log[0].n_func == s.stats.n_calls
        s.y.sum().backward()
    assert [entry.direction for entry in log] == ["forward", "backward"]
    assert log[0].n_func == s.stats.n_calls and log[1].n_func > 0


def test_closed_over_tensors_and_given_params() -> None:
    weight = torch.tensor(0.5, dtype=double, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=double)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -weight * y

    (taped,) = torch.autograd.grad(solve(field, y0, (0.0, 1.0), gradient="autograd").y.sum(), weight)
    (given,) = torch.autograd.grad(solve(field, y0, (0.0, 1.0), params=[weight]).y.sum(), weight)
    torch.testing.assert_close(taped, given)
    assert not solve(field, y0, (0.0, 1.0)).y.requires_grad
    with torch.no_grad():
        assert not solve(field, y0, (0.0, 1.0), gradient="autograd").y.requires_grad


def test_the_discrete_gradient_keeps_one_state_a_step() -> None:
    held: list[int] = []
    y0 = torch.ones(4, 1000, dtype=double, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
        s = solve(lambda t, y: torch.cos(y), y0, (0.0, 1.0))
    assert sum(held) == y0.numel()
    outputs = s.y.grad_fn.outputs  # type: ignore[union-attr]
    kept = sum(p.numel() for step in outputs.steps for p in step.y)
    assert kept == 1000 * int(s.stats.n_accepted.sum())
