"""Implicit methods: stiff problems, one Jacobian block a sample, gradients through the solved stages."""

from __future__ import annotations

import pytest
import torch
from problems import IMPLICIT, Net
from torch import Tensor

import fastode
from fastode.errors import SolverError, UnsupportedInput

each_method = pytest.mark.parametrize("method", IMPLICIT)
DOUBLE = torch.float64


def stiff(t: Tensor, y: Tensor) -> Tensor:
    """Rates 1 and 1000, coupled by a nonlinearity."""
    fast = -1000.0 * (y[..., 1] - y[..., 0] ** 2)
    return torch.stack([-y[..., 0], fast], dim=-1)


@each_method
def test_steps_far_above_the_fast_time_scale_stay_bounded(method: str) -> None:
    y0, t = torch.tensor([[1.0, 0.0]], dtype=DOUBLE), torch.tensor([0.0, 2.0], dtype=DOUBLE)
    y = fastode.odeint(stiff, y0, t, method=method, options={"step_size": 0.05})[-1]
    assert float(y[0, 0]) == pytest.approx(torch.tensor(-2.0).exp().item(), abs=2e-2)
    assert float(y.abs().max()) < 2.0


@each_method
def test_a_batch_gives_what_each_sample_gives_alone(method: str) -> None:
    net = Net()
    y0, t = torch.randn(5, 3, dtype=DOUBLE), torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE)
    options = {"step_size": 0.25}
    together = fastode.odeint(net, y0, t, method=method, options=options)
    alone = [fastode.odeint(net, y[None], t, method=method, options=options) for y in y0]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-12, atol=1e-12)
    assert "dense" not in fastode.last_stats().reason  # type: ignore[union-attr]


@each_method
def test_samples_that_depend_on_each_other_get_one_dense_jacobian(method: str) -> None:
    def mixing(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y.mean(dim=0)) - y

    y0, t = torch.randn(4, 2, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    found = fastode.odeint(mixing, y0, t, method=method, options={"step_size": 0.01})[-1]
    assert "the field mixes samples" in fastode.last_stats().reason  # type: ignore[union-attr]
    exact = fastode.odeint(mixing, y0, t, rtol=1e-10, atol=1e-10)[-1]
    torch.testing.assert_close(found, exact, rtol=0, atol=6e-3)


@each_method
def test_a_field_that_autograd_cannot_differentiate_is_solved_too(method: str) -> None:
    net = Net()

    @torch.no_grad()
    def opaque(t: Tensor, y: Tensor) -> Tensor:
        return net(t, y)

    y0, t = torch.randn(3, 3, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    options = {"step_size": 0.2}
    with torch.no_grad():
        known = fastode.odeint(net, y0, t, method=method, options=options)
    torch.testing.assert_close(
        fastode.odeint(opaque, y0, t, method=method, options=options), known, rtol=1e-9, atol=1e-9
    )


@each_method
def test_complex_states_are_solved_as_pairs(method: str) -> None:
    y0, t = torch.tensor([[1.0 + 0.5j]], dtype=torch.complex128), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    rate = -0.3 + 1j
    found = fastode.odeint(lambda t, y: rate * y, y0, t, method=method, options={"step_size": 0.01})[-1]
    exact = y0 * torch.exp(torch.tensor(rate))
    assert float((found - exact).abs()) < 1e-2


@each_method
def test_gradients_of_the_state_and_of_the_parameters_are_those_of_the_discrete_solution(method: str) -> None:
    net = Net()
    t = torch.tensor([0.0, 0.5], dtype=DOUBLE)

    def end(y0: Tensor, *parameters: Tensor) -> Tensor:
        values = dict(zip(dict(net.named_parameters()), parameters, strict=True))

        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.func.functional_call(net, values, (t, y))

        return fastode.odeint(field, y0, t, method=method, options={"step_size": 0.25})[-1]

    y0 = torch.randn(2, 3, dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(end, (y0, *[p.detach().requires_grad_() for p in net.parameters()]))


@pytest.mark.parametrize("method", ["implicit_midpoint", "trbdf2", "gl4"])
def test_second_derivatives_are_right(method: str) -> None:
    def end(y0: Tensor) -> Tensor:
        t = torch.tensor([0.0, 0.3], dtype=DOUBLE)
        return fastode.odeint(lambda t, y: torch.sin(y) * y, y0, t, method=method)[-1]

    y0 = torch.tensor([[0.4, 1.1]], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradgradcheck(end, (y0,))


def test_a_linear_problem_needs_two_evaluations_a_step_and_one_jacobian() -> None:
    calls = 0

    def decay(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -50.0 * y

    y0, t = torch.ones(3, 2, dtype=DOUBLE), torch.linspace(0, 1, 11, dtype=DOUBLE)
    with torch.no_grad():
        fastode.odeint(decay, y0, t, method="implicit_euler")
    # the slope at the start of a step, its residual, and one more that confirms; a Jacobian in the first step
    assert calls <= 3 * 10 + 1


def test_a_matrix_without_an_inverse_is_named() -> None:
    y0, t = torch.ones(2, 1, dtype=DOUBLE), torch.tensor([0.0, 0.5], dtype=DOUBLE)
    # I - dt J = 1 - 0.5 * 2
    with pytest.raises(SolverError, match=r"row 0: the matrix .* is singular at dt=0\.5"):
        fastode.odeint(lambda t, y: 2 * y, y0, t, method="implicit_euler")


def test_half_precision_is_refused_with_advice() -> None:
    with pytest.raises(UnsupportedInput, match=r"torch\.bfloat16: use y0\.float\(\)"):
        fastode.odeint(lambda t, y: -y, torch.ones(2, dtype=torch.bfloat16), torch.tensor([0.0, 1.0]), method="gl6")


def test_too_few_iterations_warn() -> None:
    y0, t = torch.tensor([[3.0]], dtype=DOUBLE), torch.tensor([0.0, 5.0], dtype=DOUBLE)
    with pytest.warns(UserWarning, match="Functional iteration did not converge"):
        fastode.odeint(lambda t, y: -(y**3), y0, t, method="implicit_euler", options={"max_iters": 1})
