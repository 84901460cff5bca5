"""Derivatives through the kernels of every engine: first and second, of values, slopes and times."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastode

from .cases import Step, shape_id
from .conftest import EngineUnderTest

each_method = pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5", "dopri8"])
each_grid_method = pytest.mark.parametrize("method", ["euler", "midpoint", "heun3", "rk4"])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 31), (17, 1), (3, 2, 5), (0, 3)], ids=shape_id)
@each_method
def test_a_tape_gives_the_bits_of_the_step_without_one(
    engine: EngineUnderTest, method: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    step = Step(method, shape, dtype, engine.device)
    plain = step.run(engine)
    for x in (step.y, *step.k):
        x.requires_grad_()
    taped = step.run(engine, tape=True)
    assert taped.err == plain.err
    assert torch.equal(taped.y1, plain.y1)
    assert all(torch.equal(a, b) for a, b in zip(taped.stages, plain.stages, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(taped.times, plain.times, strict=True))
    assert taped.y1.requires_grad and taped.stages[0].requires_grad and taped.between.requires_grad


@each_method
def test_the_derivative_of_the_new_state_is_the_weight_of_each_slope(
    engine: EngineUnderTest, method: str, dtype: torch.dtype
) -> None:
    step = Step(method, (7, 5), dtype, engine.device)
    for x in (step.y, *step.k):
        x.requires_grad_()
    gradient = torch.randn(7, 5, dtype=torch.float64).to(engine.device, dtype)
    found = torch.autograd.grad(
        step.run(engine, tape=True).y1, (step.y, *step.k), gradient, allow_unused=True, materialize_grads=True
    )
    assert torch.equal(found[0], gradient)
    eps = torch.finfo(dtype).eps
    for b, g in zip(step.tableau.weights, found[1:], strict=True):
        # the weight times dt, rounded to the data's precision, and the product
        torch.testing.assert_close(g.double(), b * step.dt * gradient.double(), rtol=2 * eps, atol=0)


@pytest.mark.parametrize("layout", ["expanded", "transposed"])
def test_a_cotangent_of_any_layout_is_spread_alike(engine: EngineUnderTest, layout: str) -> None:
    step = Step("dopri5", (7, 5), torch.float64, engine.device)
    for x in (step.y, *step.k):
        x.requires_grad_()
    gradient = torch.randn(7, 1, device=engine.device).double().expand(7, 5)
    if layout == "transposed":
        gradient = torch.randn(5, 7, device=engine.device).double().t()
    assert not gradient.is_contiguous()
    y1 = step.run(engine, tape=True).y1
    found = torch.autograd.grad(y1, step.k[:6], gradient, retain_graph=True, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(y1, step.k[:6], gradient.contiguous(), allow_unused=True, materialize_grads=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@each_method
def test_all_outputs_of_a_step_pass_gradcheck(engine: EngineUnderTest, method: str) -> None:
    step = Step(method, (2, 2), torch.float64, engine.device)

    def outputs(y: Tensor, *k: Tensor) -> tuple[Tensor, ...]:
        step.y, step.k = y, list(k)
        answer = step.run(engine, tape=True)
        return *answer.stages, answer.y1, answer.between

    assert torch.autograd.gradcheck(outputs, [x.requires_grad_() for x in (step.y, *step.k)])


def solution(engine: EngineUnderTest, method: str, end: float = 0.5, **options: Any) -> Any:
    """From a start, a rate and times to the states at times, by a few steps."""

    def solve(y0: Tensor, rate: Tensor, t: Tensor) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.sin(rate * y) + t * y

        answer: Tensor = fastode.odeint(
            field, y0, t, method=method, rtol=1e-3, atol=1e-3, options={"engine": engine.name, **options}
        )
        return answer[1:]

    return solve


def inputs(engine: EngineUnderTest, times: bool = False) -> tuple[Tensor, ...]:
    y0 = torch.tensor([[0.3, -1.1]], dtype=torch.float64, device=engine.device, requires_grad=True)
    rate = torch.tensor(0.8, dtype=torch.float64, device=engine.device, requires_grad=True)
    t = torch.tensor([0.0, 0.3, 0.5], dtype=torch.float64, device=engine.device, requires_grad=times)
    return y0, rate, t


@each_method
def test_an_adaptive_solve_can_be_differentiated_twice(engine: EngineUnderTest, method: str) -> None:
    solve = solution(engine, method, first_step=0.25, min_step=0.25, max_step=0.25)
    y0, rate, t = inputs(engine)
    assert torch.autograd.gradcheck(lambda y0, rate: solve(y0, rate, t), (y0, rate))
    assert torch.autograd.gradgradcheck(lambda y0, rate: solve(y0, rate, t), (y0, rate))


@each_grid_method
def test_a_grid_solve_can_be_differentiated_twice_in_state_parameter_and_times(
    engine: EngineUnderTest, method: str
) -> None:
    solve = solution(engine, method)
    assert torch.autograd.gradcheck(solve, inputs(engine, times=True))
    assert torch.autograd.gradgradcheck(solve, inputs(engine, times=True))


@each_grid_method
def test_a_field_that_starts_to_require_grad_in_a_later_step_is_recorded_from_there(
    engine: EngineUnderTest, method: str
) -> None:
    weight = torch.tensor(1.5, dtype=torch.float64, device=engine.device, requires_grad=True)
    y0 = torch.ones(3, dtype=torch.float64, device=engine.device)
    t = torch.linspace(0, 1, 11, dtype=torch.float64, device=engine.device)

    def late(t: Tensor, y: Tensor) -> Tensor:
        return -y * weight if t > 0.5 else -y * weight.detach()

    def always(t: Tensor, y: Tensor) -> Tensor:
        return -y * torch.where(t > 0.5, weight, weight.detach())

    gradients = []
    for field in (late, always):
        y = fastode.odeint(field, y0, t, method=method, options={"engine": engine.name})
        gradients.append(torch.autograd.grad(y[-1].sum(), weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-14, atol=0)


@pytest.mark.parametrize("evaluation", range(1, 11))
@pytest.mark.parametrize("method", ["adaptive_heun", "dopri5", "tsit5"])
def test_a_field_that_starts_to_require_grad_at_any_evaluation_is_recorded_from_there(
    engine: EngineUnderTest, method: str, evaluation: int
) -> None:
    weight = torch.tensor(1.5, dtype=torch.float64, device=engine.device, requires_grad=True)
    y0 = torch.ones(3, dtype=torch.float64, device=engine.device)
    t = torch.tensor([0.0, 0.15, 0.5, 1.9], dtype=torch.float64, device=engine.device)
    equal = {"first_step": 0.2, "min_step": 0.2, "max_step": 0.2}

    def gradient(constant: Tensor) -> Tensor:
        """With ``constant`` for the weight until the evaluation."""
        calls = 0

        def field(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return -y * (weight if calls > evaluation else constant)

        y = fastode.odeint(field, y0, t, method=method, options={"engine": engine.name, **equal})
        return torch.autograd.grad(y.sum(), weight)[0]

    # the same number, unknown to autograd in one solve and recorded from the start in the other
    found, expected = gradient(weight.detach()), gradient(weight.detach() + 0 * weight)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
