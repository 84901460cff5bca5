"""The gradient of the start time where the field jumps at a time that stays where it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode

DOUBLE = torch.float64
JUMP = 0.6


class Growth(nn.Module):
    """Grows with rate 1 before the jump and with rate 2 after it."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones((), dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < JUMP, 1.0, 2.0) * self.rate * y + 0 * t


def solve(gradient: str, t: Tensor, **how: Any) -> Tensor:
    options = {how.pop("key", "jump_t"): torch.tensor([JUMP])}
    y0 = torch.ones(2, dtype=DOUBLE)
    how |= {"rtol": 1e-9, "atol": 1e-9, "options": options}
    if gradient == "autograd":
        return fastode.odeint(Growth(), y0, t, **how)
    return fastode.odeint_adjoint(Growth(), y0, t, gradient=gradient, **how)


GRADIENTS = ["autograd", "discrete", "backsolve"]


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_later_start_shortens_what_is_before_the_jump(gradient, method):
    t = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=DOUBLE, requires_grad=True)
    y = solve(gradient, t, method=method)
    (found,) = torch.autograd.grad(y[-1, 0], t)
    end = math.exp(JUMP + 2 * (1 - JUMP))
    torch.testing.assert_close(found, torch.tensor([-end, 0.0, 0.0, 2 * end], dtype=DOUBLE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_backwards_too(gradient):
    t = torch.tensor([1.0, 0.7, 0.0], dtype=DOUBLE, requires_grad=True)
    (found,) = torch.autograd.grad(solve(gradient, t)[-1, 0], t)
    end = math.exp(-JUMP - 2 * (1 - JUMP))
    torch.testing.assert_close(found, torch.tensor([-2 * end, 0.0, end], dtype=DOUBLE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_steps_that_must_end_where_nothing_jumps(gradient):
    t = torch.tensor([0.7, 1.0], dtype=DOUBLE, requires_grad=True)
    (found,) = torch.autograd.grad(solve(gradient, t, key="step_t")[-1, 0], t)
    end = 2 * math.exp(2 * 0.3)
    torch.testing.assert_close(found, torch.tensor([-end, end], dtype=DOUBLE), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_first_state_is_the_one_that_was_given(gradient):
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE, requires_grad=True)
    y = solve(gradient, t)
    assert torch.equal(torch.autograd.grad(y[0].sum(), t)[0], torch.zeros(2, dtype=DOUBLE))


def test_a_dense_solution_moves_with_its_start():
    t0 = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    options = {"jump_t": torch.tensor([JUMP])}
    found = fastode.odeint_dense(Growth(), torch.ones(1, dtype=DOUBLE), t0, 1.0, rtol=1e-9, atol=1e-9, options=options)
    for t, rate in ((0.3, 0.3), (1.0, 1.4)):
        (gradient,) = torch.autograd.grad(found(t).sum(), t0, retain_graph=True)
        torch.testing.assert_close(gradient.item(), -math.exp(rate), rtol=1e-5, atol=1e-5)


def test_second_derivatives():
    field = Growth()
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(1, dtype=DOUBLE)
    y = fastode.odeint(field, y0, t, rtol=1e-9, atol=1e-9, options={"jump_t": torch.tensor([JUMP])})[-1, 0]
    (first,) = torch.autograd.grad(y, t, create_graph=True)
    second, mixed = torch.autograd.grad(first[0], (t, field.rate))
    end, length = math.exp(1.4), 1.4
    # y = exp(rate (1.4 - t0)) as far as t0 and the rate go
    torch.testing.assert_close(second[0].item(), end, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed.item(), -end * (1 + length), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interface", [fastode.odeint, fastode.odeint_adjoint], ids=["odeint", "odeint_adjoint"])
def test_the_time_of_an_event_moves_with_the_start(interface):
    t0 = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    when, _ = fastode.odeint_event(
        Growth(),
        torch.ones(1, dtype=DOUBLE),
        t0,
        event_fn=lambda t, y: y[0] - 5.0,
        odeint_interface=interface,
        rtol=1e-9,
        atol=1e-9,
        options={"jump_t": torch.tensor([JUMP])},
    )
    torch.testing.assert_close(when.item(), (math.log(5) - JUMP) / 2 + JUMP, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(when, t0)[0].item(), 0.5, rtol=1e-5, atol=1e-5)
