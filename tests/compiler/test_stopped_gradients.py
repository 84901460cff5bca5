"""Fields whose derivatives are not those of what they compute: torch is left to find them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.nn import CNF

from .running import assert_close

T = torch.tensor([0.0, 0.5, 1.0])


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


class StraightThrough(torch.autograd.Function):
    """A step function with the derivative of a line."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(50 * x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Stopping(nn.Module):
    """Stops a derivative in the way of that name."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.net, self.gate = way, nn.Linear(2, 2), nn.Parameter(torch.randn(2))

    def forward(self, t: Tensor, y: Tensor, *args: Tensor) -> Tensor:
        slope = torch.tanh(self.net(y))
        if self.way == "state":
            return slope - y.detach()
        if self.way == "parameter":
            return slope * self.gate.detach() - self.gate * y
        if self.way == "no_grad":
            with torch.no_grad():
                gate = torch.sigmoid(self.net(y))
            return slope * gate
        if self.way == "function":
            return slope - StraightThrough.apply(y)
        if self.way == "argument":
            return slope - y * args[0].detach()
        return slope * self.gate - y


WAYS = ("state", "parameter", "no_grad", "function", "argument")


def solved(func: Any, y0: Tensor, args: tuple[Tensor, ...]) -> tuple[Tensor, fastode.SolveStats]:
    with fastode.stats() as log:
        y = fastode.odeint(func, y0, T, *args, rtol=1e-6, atol=1e-6)
    return y, log[0]


@pytest.mark.parametrize("shape", [(3, 1), (2,)], ids=["of rows", "shared"])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_the_step_loop(way: str, shape: tuple[int, ...]) -> None:
    func = Stopping(way)
    field = fastode.compile(func)
    args = (torch.rand(shape, requires_grad=True),) if way == "argument" else ()
    y0 = torch.randn(3, 2, requires_grad=True)
    found = []
    for f in (func, field):
        y, stats = solved(f, y0, args)
        leaves = [y0, *args, *func.parameters()]
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves, allow_unused=True, materialize_grads=True)])
    assert stats.engine != "compiled" and "stops some" in stats.reason
    for a, b in zip(*found, strict=True):
        assert_close(b, a, 1e-12)


@pytest.mark.parametrize("way", WAYS[:-1])
def test_values_are_native(way: str) -> None:
    func, y0 = Stopping(way), torch.randn(3, 2)
    field = fastode.compile(func)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y, stats = solved(field, y0, ())
        assert stats.engine == "compiled", stats
        assert_close(y, solved(func, y0, ())[0], 1e-5)
    # what was traced without gradients is known to have others
    y, stats = solved(field, y0.requires_grad_(), ())
    assert stats.engine != "compiled" and "stops some" in stats.reason


def test_a_field_that_stops_nothing_is_native_with_its_gradients() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        field = fastode.compile(Stopping("none"))
        with mode():
            solved(field, torch.randn(3, 2), ())
        assert solved(field, torch.randn(3, 2, requires_grad=True), ())[1].engine == "compiled"


@pytest.mark.parametrize("make", [lambda y: y.detach().requires_grad_(), lambda y: y], ids=["detached", "as it is"])
def test_a_gradient_inside_the_field_stops_nothing(make: Callable[[Tensor], Tensor]) -> None:
    """It detaches only what does not require grad: FFJORD's way to be differentiated in every mode."""
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def func(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            q = y if y.requires_grad else make(y).requires_grad_()
            return -torch.autograd.grad(net(q).sum(), q, create_graph=True)[0]

    field, y0 = fastode.compile(func), torch.randn(4, 2, requires_grad=True)
    grads = [torch.autograd.grad(solved(f, y0, ())[0].sum(), [y0, *net.parameters()][:2]) for f in (func, field)]
    assert solved(field, y0, ())[1].engine == "compiled"
    for a, b in zip(*grads, strict=True):
        assert_close(b, a, 1e-9)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_flow(trace: str) -> None:
    func, x, noise = Stopping("state"), torch.randn(4, 2), torch.ones(4, 2)
    found = []
    for native in (True, False):
        flow = CNF(func, 2, trace=trace, compile=native, rtol=1e-6, atol=1e-6)
        with torch.no_grad():
            found.append(flow.log_prob(x, noise=noise if trace == "hutchinson" else None))
        assert flow.served_by[0] != "compiled" and ("stops some" in flow.served_by[1]) == native
    assert_close(found[0], found[1], 1e-12)


def test_rows_and_dense_output() -> None:
    func = Stopping("state")
    field, y0 = fastode.compile(func), torch.randn(3, 2, requires_grad=True)
    for solve in (
        lambda f: fastode.solve(f, y0, (0.0, 1.0)).y,
        lambda f: fastode.odeint_dense(f, y0, 0.0, 1.0)(0.7),
    ):
        grads = []
        for f in (func, field):
            with fastode.stats() as log:
                y = solve(f)
            grads.append(torch.autograd.grad(y.sum(), [y0, func.net.weight]))
        assert "stops some" in log[0].reason
        for a, b in zip(*grads, strict=True):
            assert_close(b, a, 1e-12)
        with torch.no_grad():
            solve(field)
        assert fastode.last_stats().engine == "compiled"
