"""Tensors with an entry for each row that a field holds: noise of an estimate, a context that a sample is drawn for."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.nn import CNF

from .drawn import Drawn
from .running import assert_close
from .solving import assert_same

T = torch.tensor([0.0, 1.0])


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


class Conditioned(nn.Module):
    """Sees a context of each sample, which is set from outside."""

    context: Tensor

    def __init__(self, rows: int, buffer: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
        if buffer:
            self.register_buffer("context", torch.randn(rows, 3))
        else:
            self.context = torch.randn(rows, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, self.context * torch.sin(3 * t)], 1))


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_of_a_module(method: str, buffer: bool) -> None:
    func = Conditioned(20, buffer)
    context = func.context
    for rows in (20, 7):
        func.context = torch.randn(rows, 3, requires_grad=not buffer)
        leaves = [*func.parameters(), *([] if buffer else [func.context])]
        assert_same(func, torch.randn(rows, 2, requires_grad=True), T, leaves=leaves, method=method)
    assert func.context is not context


def test_of_enclosing_functions_and_lists() -> None:
    context, more = torch.randn(9, 1, requires_grad=True), [torch.randn(9)]

    def func(t: Tensor, y: Tensor, rate: Tensor, scale: Tensor) -> Tensor:
        return (torch.sin(y * context) - more[0][:, None] * y) * rate[:, None] * scale

    args = torch.rand(9, requires_grad=True), torch.rand(2, requires_grad=True)
    assert_same(func, torch.randn(9, 2), T, args=args, leaves=[context, *args])
    assert len(more[0]) == len(context) == 9


GLOBAL = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)[:, None]


def test_of_a_module_of_python() -> None:
    before = GLOBAL
    assert_same(lambda t, y: -GLOBAL * y, torch.randn(6, 2), T)
    assert GLOBAL is before


def test_they_are_looked_up_anew() -> None:
    func = Conditioned(12)
    field = fastode.compile(func)
    y0 = torch.randn(12, 2)
    for rows in (12, 12, 12, 5, 1, 12):
        func.context = torch.randn(rows, 3)
        found = fastode.odeint(field, y0[:rows], T)
        assert fastode.last_stats().engine == "compiled", rows
        assert_close(found, fastode.odeint(func, y0[:rows], T), 1e-10, str(rows))
    func.context.mul_(2)
    assert_close(fastode.odeint(field, y0, T), fastode.odeint(func, y0, T), 1e-10)


def test_those_of_another_batch_are_the_fields_own_error() -> None:
    func = Conditioned(12)
    field = fastode.compile(func)
    fastode.odeint(field, torch.randn(12, 2), T)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            fastode.odeint(field, torch.randn(11, 2), T)
    assert func.context.shape == (12, 3)
    fastode.odeint(field, torch.randn(12, 2), T)
    assert fastode.last_stats().engine == "compiled"


def test_they_are_back_in_their_place_when_the_trace_fails() -> None:
    noise = torch.randn(8, 2)

    def broken(t: Tensor, y: Tensor) -> Tensor:
        return torch.lgamma(y * noise)  # for which there is no rule

    assert not fastode.explain(broken, torch.randn(8, 2)).compiles
    assert noise.shape == (8, 2)
    fastode.odeint(fastode.compile(broken), torch.randn(8, 2), T)
    assert fastode.last_stats().engine != "compiled"


def test_what_is_not_taken_for_one() -> None:
    weight, bound = nn.Parameter(torch.randn(8, 2)), torch.randn(8, 2)
    of_rows = {
        "a parameter": lambda t, y: weight * y,
        "of another dtype": functools.partial(lambda t, y, held: y * held[0], held=[bound.float()]),
        "in a tuple": functools.partial(lambda t, y, held: y * held[0], held=(bound,)),
    }
    for name, func in of_rows.items():
        found = fastode.explain(func, torch.randn(8, 2))
        assert not found.compiles and "Pass tensors with an entry for each row" in str(found), name
    shared = torch.randn(8)  # as long as the batch, but seen by all rows
    assert_same(lambda t, y: -y * shared.sum(), torch.randn(8, 2), T)


def test_solve_takes_them_as_arguments_only() -> None:
    func = Conditioned(4)
    field = fastode.compile(func)
    y0 = torch.randn(4, 2)
    fastode.odeint(field, y0, T)
    with pytest.raises(RuntimeError):  # t has an axis of rows there, and this field none for it
        fastode.solve(field, y0, (0.0, 1.0))
    context = torch.randn(4, 3)
    rows = fastode.compile(lambda t, y: torch.sin(y * context[:, :2]) - y)
    found = fastode.solve(rows, y0, (0.0, 1.0), compact=False)
    assert "Pass tensors with an entry for each row" in fastode.last_stats().reason
    assert bool((found.status == fastode.Status.FINISHED).all())


def test_the_program_names_them() -> None:
    text = str(fastode.explain(Conditioned(20), torch.zeros(20, 2)))
    assert "context" in text and "net.0.weight" in text


class Estimate(nn.Module):
    """A flow by Hutchinson's estimate, whose noise is a buffer, as is a counter of its calls: FFJORD's way."""

    noise: Tensor
    calls: Tensor

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
        self.register_buffer("noise", torch.randn(rows, 3).sign())
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z = state[0]
        self.calls += 1
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            slope = self.net(z) * torch.sin(t.clone().type_as(z).requires_grad_())
            (product,) = torch.autograd.grad(slope, z, self.noise, create_graph=True)
        return slope, -(product * self.noise).sum(1)


def test_the_noise_of_an_estimate() -> None:
    func = Estimate(15)
    x, zero, t = torch.randn(15, 3), torch.zeros(15), torch.tensor([1.0, 0.0])
    found = []
    for f in (func, fastode.compile(func)):
        with fastode.stats() as log:
            z, change = fastode.odeint_adjoint(f, (x, zero), t, rtol=1e-6, atol=1e-6, gradient="discrete")
        loss = z[-1].square().mean() - change[-1].mean()
        found.append([z, change, *torch.autograd.grad(loss, list(func.parameters()))])
    assert log[0].engine == "compiled" and int(func.calls) > 2
    for a, b in zip(*found, strict=True):
        assert_close(b, a, 1e-9)


def test_a_counter_is_counted_by_the_trace_alone() -> None:
    func = Estimate(15)
    field, state = fastode.compile(func), (torch.randn(15, 3), torch.zeros(15))
    for _ in range(3):
        fastode.odeint(field, state, T)
        assert fastode.last_stats().engine == "compiled" and int(func.calls) == 4  # the first is without the noise


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_flow_for_a_context(trace: str) -> None:
    func = Conditioned(10)
    x, noise = torch.randn(10, 2), torch.randn(10, 2).sign()
    found = []
    for native in (False, True):
        flow = CNF(func, 2, trace=trace, compile=native, rtol=1e-6, atol=1e-6)
        loss = flow.log_prob(x, noise=noise if trace == "hutchinson" else None).mean()
        found.append([loss, *torch.autograd.grad(loss, list(func.parameters()))])
    assert flow.served_by == ("compiled", "")
    for a, b in zip(*found, strict=True):
        assert_close(b, a, 1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_random_solves(seed: int) -> None:
    drawn = Drawn(7000 + seed)
    inner, held = drawn.field, torch.rand(drawn.rows, 1, requires_grad=True)

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.held = inner, held

        def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
            return self.inner(t, y, *args) * torch.cos(self.held)

    drawn.field = Held()  # type: ignore[assignment]
    method = drawn.choose.choice(["dopri5", "bosh3", "rk4"])

    def solve(f: Any) -> list[Tensor]:
        return [fastode.odeint(f, drawn.y0, drawn.t, *drawn.args, method=method, **drawn.how)]

    drawn.compare(solve, more=[held])


def test_another_shape_is_seen() -> None:
    class Matrices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = torch.randn(6, 2, 4)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(self.factors.flatten(1)[:, :2] * y + self.factors[:, 0].sum(1, keepdim=True))

    func, y0 = Matrices(), torch.randn(6, 2)
    field = fastode.compile(func)
    for shape in ((6, 2, 4), (6, 4, 2), (6, 8, 1)):
        func.factors = torch.randn(shape)
        found = fastode.odeint(field, y0, T)
        assert fastode.last_stats().engine == "compiled"
        assert_close(found, fastode.odeint(func, y0, T), 1e-10)
