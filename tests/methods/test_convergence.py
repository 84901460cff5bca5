"""The order at which the error of every method falls with its step size."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from problems import ADAMS, ADAPTIVE_ALL, FIXED, IMPLICIT
from torch import Tensor

import fastode
from fastode.methods import methods

#: exponents of two of the numbers of steps, between the first steps' erratic errors and rounding
STEPS = {1: (6, 7), 2: (5, 6), 3: (4, 5), 4: (4, 5), 5: (5, 6), 6: (3, 4), 8: (2, 3)}


def logistic(t: Tensor, y: Tensor) -> Tensor:
    """``y' = y (1 - y) cos t``: nonlinear, not autonomous, smooth."""
    return y * (1 - y) * torch.cos(t)


def error(method: str, steps: int, end: float, **options: Any) -> float:
    """At ``end``, after ``steps`` equal steps from 0."""
    y0 = torch.tensor([[0.2], [0.7]], dtype=torch.float64)
    t = torch.tensor([0.0, end], dtype=torch.float64)
    if method in ADAPTIVE_ALL:
        size = abs(end) / steps
        # equal steps: none is ever longer or shorter, and a step of the smallest size is always accepted
        options = {"first_step": size, "min_step": size, "max_step": size}
    else:
        options["step_size"] = abs(end) / steps
    found = fastode.odeint(logistic, y0, t, method=method, options=options)[-1]
    odds = y0 / (1 - y0) * math.exp(math.sin(end))
    return float((found - odds / (1 + odds)).abs().max())


@pytest.mark.parametrize("end", [2.0, -2.0], ids=["forward", "backward"])
@pytest.mark.parametrize("method", [*ADAPTIVE_ALL, *FIXED, *IMPLICIT])
def test_halving_the_step_divides_the_error_by_two_to_the_order(method: str, end: float) -> None:
    order = methods()[method].order  # type: ignore[union-attr]
    coarse, fine = STEPS[order]
    measured = math.log2(error(method, 2**coarse, end) / error(method, 2**fine, end))
    assert measured == pytest.approx(order, abs=0.6)


@pytest.mark.parametrize("method", ADAMS)
def test_adams_methods_are_of_order_four_or_better_at_their_defaults(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the corrector's default tolerances are below what four iterations reach
        measured = math.log2(error(method, 64, 2.0) / error(method, 128, 2.0))
    assert measured > 3.7


def test_explicit_adams_is_stable_at_its_defaults_on_an_oscillator() -> None:
    y0, t = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 5.0], dtype=torch.float64)

    def rotation(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -y[0]])

    found = fastode.odeint(rotation, y0, t, method="explicit_adams", options={"step_size": 0.0125})[-1]
    exact = torch.tensor([math.cos(5), -math.sin(5)], dtype=torch.float64)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ADAPTIVE_ALL)
def test_tighter_tolerances_give_smaller_errors(method: str) -> None:
    y0, t = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    odds = 0.25 * math.exp(math.sin(2.0))
    errors = [
        # a step ends where the output is wanted: dense output is less accurate for some pairs
        float(fastode.odeint(logistic, y0, t, method=method, rtol=tol, atol=tol, options={"step_t": t[1:]})[-1])
        - odds / (1 + odds)
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    assert abs(errors[0]) > 10 * abs(errors[2])
    assert abs(errors[2]) < 1e-4


@pytest.mark.parametrize("method", [*FIXED, *IMPLICIT])
def test_cubic_interpolation_between_grid_points_is_better_than_linear(method: str) -> None:
    y0 = torch.tensor([0.2], dtype=torch.float64)
    t = torch.tensor([0.0, 0.35, 1.0], dtype=torch.float64)
    odds = 0.25 * math.exp(math.sin(0.35))
    exact = odds / (1 + odds)
    step = {"step_size": 0.1}
    linear, cubic = (
        float(fastode.odeint(logistic, y0, t, method=method, options={**step, "interp": kind})[1])
        for kind in ("linear", "cubic")
    )
    ends = torch.tensor([0.0, 0.3, 0.4], dtype=torch.float64)
    at_ends = fastode.odeint(logistic, y0, ends, method=method, options=step)[1:, 0]
    assert linear == pytest.approx(float(at_ends.mean()), abs=1e-14)
    if methods()[method].order > 2:  # type: ignore[union-attr]
        assert abs(cubic - exact) < 0.1 * abs(linear - exact)
    else:
        assert cubic != linear
