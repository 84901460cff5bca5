"""Gradients of ``odeint`` through the steps: against finite differences, to every input, twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import ADAMS, ADAPTIVE_ALL, FIXED, Linear
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import fastode

from .comparing import STEADY, STEP, Mixing, T, mixing, steady, weighted

METHODS = (*ADAPTIVE_ALL, *FIXED, *ADAMS, "implicit_midpoint", "gl4")


def inputs(direction: str = "forward", n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """A state, times and an argument, each of which wants a gradient."""
    y0 = torch.linspace(-0.6, 0.9, n, dtype=torch.float64)
    t = torch.tensor(T if direction == "forward" else T[::-1], dtype=torch.float64)
    w = torch.linspace(0.5, 1.2, n, dtype=torch.float64)
    return y0.requires_grad_(), t.requires_grad_(), w.requires_grad_()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_to_the_state_every_time_and_arguments_are_those_of_finite_differences(
    method: str, direction: str
) -> None:
    def solve(y0: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return fastode.odeint(mixing, y0, t, w, **steady(method))

    assert gradcheck(solve, inputs(direction))


@pytest.mark.parametrize("method", METHODS)
def test_gradients_can_be_differentiated_again(method: str) -> None:
    def solve(y0: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return fastode.odeint(mixing, y0, t, w, **steady(method))

    assert gradgradcheck(solve, inputs(n=1), fast_mode=True)


@pytest.mark.parametrize("method", ["rk4", "midpoint", "gl4"])
def test_cubic_outputs_between_grid_points_are_differentiable(method: str) -> None:
    def solve(y0: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return fastode.odeint(mixing, y0, t, w, method=method, options={"step_size": STEP, "interp": "cubic"})

    assert gradcheck(solve, inputs())
    assert gradgradcheck(solve, inputs(n=1), fast_mode=True)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
@pytest.mark.parametrize("key", ["step_t", "jump_t"])
def test_gradients_hold_across_prescribed_times(method: str, key: str) -> None:
    options = {**STEADY, key: torch.tensor([0.5, 0.6], dtype=torch.float64)}

    def solve(y0: Tensor, w: Tensor) -> Tensor:
        # the times stay where they are: steps that end on a prescribed one do not move with the start
        return fastode.odeint(mixing, y0, inputs()[1].detach(), w, method=method, options=options)

    y0, _, w = inputs()
    assert gradcheck(solve, (y0, w))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_closed_over_tensor_gets_its_gradient(method: str) -> None:
    y0, t, w = inputs()

    def solve(w: Tensor) -> Tensor:
        return fastode.odeint(lambda t, y: mixing(t, y, w), y0.detach(), t.detach(), **steady(method))

    assert gradcheck(solve, (w,))
    assert gradgradcheck(solve, (w,), fast_mode=True)


@pytest.mark.parametrize("method", ["dopri5", "heun3", "implicit_midpoint"])
def test_gradients_reach_every_part_of_a_nested_state(method: str) -> None:
    y0, t, w = inputs()
    v = torch.tensor([[0.3], [-0.2]], dtype=torch.float64, requires_grad=True)

    def field(t: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        (y,), v = state["pair"]
        return {"pair": ((mixing(t, y, w) + v.mT[0] * t,), -v * y.sum())}

    def solve(y0: Tensor, v: Tensor, t: Tensor, w_: Tensor) -> tuple[Tensor, ...]:
        (y,), v = fastode.odeint(field, {"pair": ((y0,), v)}, t, **steady(method))["pair"]
        return y, v

    assert gradcheck(solve, (y0, v, t, w))


@pytest.mark.parametrize("method", ["dopri5", "rk4", "gl4"])
def test_gradients_of_a_complex_state_are_those_of_finite_differences(method: str) -> None:
    y0 = torch.tensor([0.4 + 0.3j, -0.2j], dtype=torch.complex128, requires_grad=True)
    w = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(T, dtype=torch.float64, requires_grad=True)

    def solve(y0: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return fastode.odeint(lambda t, y: 1j * w * y * torch.cos(t) - 0.2 * y * y, y0, t, **steady(method))

    assert gradcheck(solve, (y0, t, w))


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "tsit5", "bosh3"])
@pytest.mark.parametrize("solve", [fastode.odeint, fastode.odeint_adjoint], ids=["autograd", "backsolve"])
def test_gradients_of_controlled_steps_approach_those_of_the_exact_solution(
    method: str, solve: Callable[..., Any]
) -> None:
    field = Linear().double()
    y0 = torch.arange(1, 5, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.8, 2.0], dtype=torch.float64)
    exact = torch.stack([torch.matrix_exp(field.matrix * s) @ y0 for s in t])
    expected = torch.autograd.grad(weighted(exact), (y0, field.matrix))
    # the error of every step is below the tolerance; the gradient is a solution of the same kind
    # (dopri8 interpolates with a quartic, so its steps, backward ones too, end on the requested times)
    tolerance = 1e-9
    y = solve(field, y0, t, method=method, rtol=tolerance, atol=tolerance, options={"step_t": t})
    for found, wanted in zip(torch.autograd.grad(weighted(y), (y0, field.matrix)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e3 * tolerance, atol=1e3 * tolerance)


def test_step_sizes_are_constants_for_differentiation() -> None:
    """The gradient is that of the steps taken: replaying them at given sizes gives the same."""
    field = Mixing()
    y0 = torch.tensor([0.2, -0.4, 1.5], dtype=torch.float64)
    t = torch.tensor([0.0, 2.0], dtype=torch.float64)
    with fastode.stats() as log:
        y = fastode.odeint(field, y0, t, rtol=1e-3, atol=1e-3)
    (chosen,) = torch.autograd.grad(y[-1].sum(), field.w)
    assert log[0].n_accepted > 1
    ends: list[float] = []
    field.callback_accept_step = lambda t0, y0, dt: ends.append(float(t0 + dt))  # type: ignore[assignment]
    fastode.odeint(field, y0, t, rtol=1e-3, atol=1e-3)
    del field.callback_accept_step
    options = {"step_t": torch.tensor(ends, dtype=torch.float64), "first_step": 10.0, "min_step": 10.0}
    replayed = fastode.odeint(field, y0, t, options=options)
    (prescribed,) = torch.autograd.grad(replayed[-1].sum(), field.w)
    torch.testing.assert_close(chosen, prescribed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_an_unused_input_gets_no_gradient_and_a_frozen_one_costs_none(method: str) -> None:
    field = Mixing()
    unused = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    field.register_parameter("unused", unused)
    field.w.requires_grad_(False)
    y0, t, _ = inputs(n=3)
    y = fastode.odeint(field, y0, t.detach(), **steady(method))
    y.sum().backward()
    assert unused.grad is None and field.w.grad is None and t.grad is None
    assert y0.grad is not None


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_without_anything_to_differentiate_no_tape_is_kept(method: str) -> None:
    y0, t, w = (x.detach() for x in inputs())
    assert not fastode.odeint(mixing, y0, t, w, **steady(method)).requires_grad
    with torch.no_grad():
        assert not fastode.odeint(mixing, y0, t, w.requires_grad_(), **steady(method)).requires_grad


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_field_whose_value_requires_grad_only_later_is_recorded_from_there(method: str) -> None:
    y0, t, w = inputs()

    def solve(w: Tensor) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return mixing(t, y, w if float(t.detach()) > 0.5 else w.detach())

        return fastode.odeint(field, y0.detach(), t.detach(), **steady(method))

    (found,) = torch.autograd.grad(weighted(solve(w)), w)
    eps = 1e-6
    (late,) = torch.autograd.grad(weighted(fastode.odeint(mixing, y0, t, w, **steady(method))), w)
    assert bool((found != late).all())

    def shifted(d: float) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return mixing(t, y, w + d if float(t.detach()) > 0.5 else w)

        return weighted(fastode.odeint(field, y0, t, **steady(method))).detach()

    difference = (shifted(eps) - shifted(-eps)) / (2 * eps)
    torch.testing.assert_close(found.sum(), difference, rtol=1e-7, atol=1e-7)
