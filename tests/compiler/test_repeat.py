"""A solve like the one before it takes the short way, and whatever has changed is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.compiler import dispatch

T = torch.tensor([0.0, 0.4, 1.0])


class Gated(nn.Module):
    """Depends on its mode, its children and its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))
        self.gain = nn.Parameter(torch.tensor([0.7, 1.3]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        slope = self.net(y) * self.gain * torch.cos(t)
        return slope if self.training else 0.5 * slope


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the long way was taken: one entry each time."""
    taken: list[int] = []
    plain = dispatch.solve_natively

    def counted(*args: Any) -> Tensor:
        taken.append(1)
        return plain(*args)

    monkeypatch.setattr(dispatch, "solve_natively", counted)
    return taken


def warmed(func: Callable[..., Any], y0: Tensor, t: Tensor = T, **how: Any) -> fastode.CompiledField:
    """A field whose next such solve takes the short way."""
    field = fastode.compile(func)
    for _ in range(2):
        fastode.odeint(field, y0, t, **how)
    assert field.repeat is not None
    return field


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(3, 2), (2,), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "rk4"])
def test_the_short_way_gives_the_same_bits(method, shape, dtype, long_ways):
    y0, t = torch.randn(shape, dtype=dtype), T.to(dtype)
    func = Gated().to(dtype)
    how = {"method": method, "rtol": 1e-4, "atol": 1e-4}
    field = warmed(func, y0, t, **how)
    for step in range(3):
        with torch.no_grad():
            func.gain.mul_(1.1)  # as an optimiser does
            y0 = torch.randn(shape, dtype=dtype)
        long_ways.clear()
        with fastode.stats() as log:
            found = fastode.odeint(field, y0.requires_grad_(), t, **how)
        assert not long_ways, step
        expected = fastode.odeint(fastode.compile(func), y0, t, **how)
        assert torch.equal(found, expected) and log[0].engine == "compiled" and log[0].n_func > 3
        inputs = [y0, *func.parameters()]
        grads = [torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected)]
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def _double_gain(func: Gated) -> None:
    func.gain = nn.Parameter(2 * func.gain.detach())


def _other_layers(func: Gated) -> None:
    square = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    func.net = nn.Sequential(nn.Linear(2, 2, bias=False))
    func.net[0].weight = square


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.eval(),
        _double_gain,
        _other_layers,
        lambda f: f.net.__setitem__(1, nn.Sigmoid()),
        lambda f: f.net.append(nn.Tanh()),
        lambda f: setattr(f.gain, "data", torch.tensor([[3.0, 0.1]]).expand(2, 2)[:, 0]),
        lambda f: setattr(f.net[0].weight, "data", torch.randn(2, 5).t()),
        lambda f: setattr(f.gain, "data", torch.tensor(2.0)),
    ],
    ids=["mode", "parameter", "layers", "child", "new child", "strided", "transposed", "shape"],
)
def test_a_change_of_the_field_is_seen(change):
    func, y0 = Gated(), torch.randn(3, 2)
    field = warmed(func, y0)
    before = fastode.odeint(field, y0, T)
    change(func)
    found = fastode.odeint(field, y0, T)
    assert torch.equal(found, fastode.odeint(fastode.compile(func), y0, T))
    assert not torch.equal(found, before)
    assert fastode.last_stats().engine == "compiled"


@pytest.mark.parametrize("name", ["callback_step", "callback_accept_step"])
@pytest.mark.parametrize("of_field", [True, False])
def test_a_callback_given_later_is_called(name, of_field):
    func, y0 = Gated(), torch.randn(3, 2)
    field = warmed(func, y0)
    calls = []
    setattr(field if of_field else func, name, lambda *_: calls.append(1))
    fastode.odeint(field, y0, T)
    assert calls and "callbacks" in fastode.last_stats().reason


def test_a_function_and_what_it_closes_over():
    rate, y0 = torch.tensor(-0.5, requires_grad=True), torch.randn(3, 2)

    def decay(t: Tensor, y: Tensor) -> Tensor:
        return rate * y

    field = warmed(decay, y0)
    rate = torch.tensor(-2.0, requires_grad=True)
    found = fastode.odeint(field, y0, T)
    torch.testing.assert_close(found[-1], y0 * torch.exp(rate), rtol=1e-5, atol=1e-6)
    decay.callback_step = lambda *_: None
    fastode.odeint(field, y0, T)
    assert "callbacks" in fastode.last_stats().reason


@pytest.mark.parametrize(
    "asked",
    [
        {"rtol": 1e-3},
        {"atol": 1e-2},
        {"rtol": torch.tensor(1e-3)},
        {"method": "bosh3"},
        {"options": {"first_step": 0.1}},
        {"t": T.flip(0)},
        {"t": T.double()},
        {"t": T[:2]},
        {"y0": torch.randn(4, 2)},
        {"y0": torch.randn(3, 4)[:, ::2]},
        {"y0": torch.randn(2, 3).t()},
    ],
    ids=lambda a: next(iter(a)),
)
def test_another_request_is_not_answered_by_the_last_one(asked, long_ways):
    func, usual = Gated(), {"y0": torch.randn(3, 2), "t": T}
    field = warmed(func, usual["y0"])
    long_ways.clear()
    found = fastode.odeint(field, **{**usual, **asked})
    assert len(long_ways) == 1
    assert torch.equal(found, fastode.odeint(fastode.compile(func), **{**usual, **asked}))


def test_tolerances_of_features_are_not_compared_with_the_last_ones():
    y0, tolerances = torch.randn(3, 2), (torch.tensor([1e-3, 1e-6]), torch.tensor([1e-6, 1e-3]))
    field = fastode.compile(Gated())
    found = [fastode.odeint(field, y0, T, rtol=rtol) for rtol in (*tolerances, *tolerances)]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])


def test_what_is_wrong_is_said_as_before():
    y0 = torch.randn(3, 2)
    field = warmed(Gated(), y0)
    with pytest.raises(fastode.InvalidArgument, match="strictly increasing"):
        fastode.odeint(field, y0, torch.tensor([0.0, 0.0, 1.0]))
    with pytest.raises(fastode.NonFiniteState):
        fastode.odeint(field, y0 * torch.nan, T)


def test_transforms_and_a_chosen_engine_go_round_it(monkeypatch):
    func, y0 = Gated(), torch.randn(3, 2)
    field = warmed(func, y0)
    direction = torch.randn(3, 2)
    _, along = torch.func.jvp(lambda y: fastode.odeint(field, y, T)[-1], (y0,), (direction,))
    _, expected = torch.func.jvp(lambda y: fastode.odeint(func, y, T)[-1], (y0,), (direction,))
    torch.testing.assert_close(along, expected)
    monkeypatch.setenv("FASTODE_ENGINE", "reference")
    fastode.odeint(field, y0, T)
    assert fastode.last_stats().engine == "reference"


def test_times_that_require_grad_get_it():
    func, y0, t = Gated(), torch.randn(3, 2), T.clone().requires_grad_()
    field = warmed(func, y0)
    (found,) = torch.autograd.grad(fastode.odeint(field, y0, t).sum(), t)
    (expected,) = torch.autograd.grad(fastode.odeint(fastode.compile(func), y0, t).sum(), t)
    assert torch.equal(found, expected)
