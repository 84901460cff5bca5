"""The kernels under a tape: values and gradients of the plain solve; and who may use a buffer again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import ADAPTIVE_ALL, FIXED, Net
from torch import Tensor

import fastode

from .conftest import LOCKSTEP

T = torch.tensor([0.0, 0.45, 1.0], dtype=torch.float64)
LOOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}


def arguments(method: str, engine: str) -> dict[str, Any]:
    options = {"first_step": 0.2} if method in ADAPTIVE_ALL else {"step_size": 0.25}
    return {"method": method, "options": {**options, "engine": engine}, **LOOSE}


@pytest.mark.parametrize("method", [*ADAPTIVE_ALL, *FIXED])
def test_a_tape_does_not_change_the_native_solution(method: str) -> None:
    net, y0 = Net(), torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        plain = fastode.odeint(net, y0, T, **arguments(method, "native"))
        steps = fastode.last_stats()
    found = fastode.odeint(net, y0, T, **arguments(method, "native"))
    taken = fastode.last_stats()
    assert steps is not None and taken is not None and (steps.engine, taken.engine) == ("native", "autograd")
    assert (steps.n_func, steps.n_accepted, steps.dt) == (taken.n_func, taken.n_accepted, taken.dt)
    # dense output is evaluated by torch's operators under a tape
    torch.testing.assert_close(found.detach(), plain, rtol=4e-15, atol=4e-15)


@pytest.mark.parametrize("method", [*ADAPTIVE_ALL, *FIXED])
def test_both_engines_have_the_same_values_and_gradients(method: str) -> None:
    net, found = Net(), []
    for engine in LOCKSTEP:
        y0 = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3).requires_grad_()
        kwargs = arguments(method, engine)
        if method in ADAPTIVE_ALL:  # equal steps: sums that differ by rounding must not choose others
            kwargs["options"].update(min_step=0.2, max_step=0.2)
        y = fastode.odeint(net, y0, T, **kwargs)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), (y0, *net.parameters()))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", LOCKSTEP)
def test_a_view_without_contiguous_memory_is_solved_like_its_copy(engine: str) -> None:
    net = Net()
    y0 = torch.randn(3, 5, dtype=torch.float64).T
    strided = fastode.odeint(net, y0, T, **arguments("dopri5", engine))
    assert torch.equal(strided, fastode.odeint(net, y0.contiguous(), T, **arguments("dopri5", engine)))


def test_a_state_that_the_field_keeps_is_never_written_again() -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        kept.append((y, y.clone()))
        return torch.cos(y)

    fastode.odeint(field, torch.zeros(4, dtype=torch.float64), T)
    assert all(torch.equal(seen, copy) for seen, copy in kept)


def test_a_view_that_the_field_keeps_protects_the_whole_state() -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        kept.append((y[1:3], y[1:3].clone()))
        return torch.cos(y)

    fastode.odeint(field, torch.zeros(4, dtype=torch.float64), T)
    assert all(torch.equal(seen, copy) for seen, copy in kept)


def test_times_that_the_field_keeps_are_never_written_again() -> None:
    kept: list[tuple[Tensor, float]] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        kept.append((t, float(t)))
        return torch.cos(y)

    fastode.odeint(field, torch.zeros(4, dtype=torch.float64), T)
    assert all(float(t) == value for t, value in kept)


def test_a_field_that_asks_for_gradients_of_the_state_in_place_gets_a_fresh_one_each_time() -> None:
    fresh = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        fresh.append(not y.requires_grad and y.grad_fn is None)
        with torch.enable_grad():
            y.requires_grad_()
            energy = torch.sin(y).sum()
            (slope,) = torch.autograd.grad(energy, y)
        return slope.detach()

    with torch.no_grad():
        found = fastode.odeint(field, torch.zeros(4, dtype=torch.float64), T)
        assert torch.equal(found, fastode.odeint(lambda t, y: torch.cos(y), torch.zeros(4, dtype=torch.float64), T))
    assert all(fresh)


def test_a_field_that_writes_every_value_into_one_buffer_is_copied() -> None:
    buffer = torch.empty(4, dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(y, out=buffer)

    y0 = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(fastode.odeint(field, y0, T), fastode.odeint(lambda t, y: torch.cos(y), y0, T))


def taped() -> tuple[Tensor, Tensor, Net]:
    net, y0 = Net(), torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3).requires_grad_()
    return fastode.odeint(net, y0, T, **arguments("dopri5", "native"))[-1].square().sum(), y0, net


def test_a_graph_that_is_kept_gives_the_same_gradient_again() -> None:
    loss, y0, net = taped()
    inputs = (y0, *net.parameters())
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    again = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_gradient_of_some_inputs_is_that_of_all() -> None:
    loss, y0, net = taped()
    inputs = (y0, *net.parameters())
    together = torch.autograd.grad(loss, inputs, retain_graph=True)
    alone = [torch.autograd.grad(loss, x, retain_graph=True)[0] for x in inputs]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_a_backward_pass_that_was_interrupted_leaves_nothing_behind() -> None:
    interrupt = False

    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            if interrupt:
                raise KeyboardInterrupt
            return grad

    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.cos(Stop.apply(y) if calls == 5 else y)

    y0 = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    loss = fastode.odeint(field, y0, T, **arguments("dopri5", "native"))[-1].sum()
    (expected,) = torch.autograd.grad(loss, y0, retain_graph=True)
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        torch.autograd.grad(loss, y0, retain_graph=True)
    interrupt = False
    assert torch.equal(torch.autograd.grad(loss, y0)[0], expected)


def test_a_field_without_the_state_and_one_that_needs_gradients_late_have_theirs() -> None:
    p = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(3, dtype=torch.float64)
    (of_time,) = torch.autograd.grad(fastode.odeint(lambda t, y: p * t * torch.ones_like(y), y0, T)[-1].sum(), p)
    torch.testing.assert_close(of_time, torch.tensor(1.5, dtype=torch.float64))
    # the field depends on p in one half of the interval only: in mid-step the tape begins
    late = fastode.odeint(lambda t, y: p * torch.ones_like(y) if t > 0.5 else torch.zeros_like(y), y0, T, method="rk4")
    (of_late,) = torch.autograd.grad(late[-1].sum(), p)
    early = fastode.odeint(lambda t, y: (t > 0.5) * p * torch.ones_like(y), y0, T, method="rk4")
    torch.testing.assert_close(of_late, torch.autograd.grad(early[-1].sum(), p)[0])
    twice = fastode.odeint(lambda t, y: p * y, y0, T, method="rk4")[-1].sum()
    (slope,) = torch.autograd.grad(twice, p, create_graph=True)
    assert torch.autograd.grad(slope, p)[0] > 0


def test_several_cotangents_at_once() -> None:
    y0 = torch.linspace(-1, 1, 3, dtype=torch.float64)

    def end(y: Tensor) -> Tensor:
        out: Tensor = fastode.odeint(lambda t, y: torch.cos(y), y, T, **arguments("dopri5", "native"))[-1]
        return out

    x = y0.clone().requires_grad_()
    out = end(x)
    batched = torch.autograd.grad(out, x, torch.eye(3, dtype=torch.float64), is_grads_batched=True)[0]
    torch.testing.assert_close(batched, torch.autograd.functional.jacobian(end, y0))
