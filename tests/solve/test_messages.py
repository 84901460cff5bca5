"""Each wrong argument of ``solve`` is named, with what it was and what is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import fastode
from fastode import solve

Y0 = torch.ones(3, 2, dtype=torch.float64)
GOOD: dict[str, Any] = {"func": lambda t, y: -y, "y0": Y0, "t_span": (0.0, 1.0)}
LATE = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"func": 3}, "`func` must be callable"),
        ({"y0": torch.tensor(1.0)}, r"y0 must have a first axis of samples"),
        ({"y0": (torch.ones(2), torch.ones(3))}, "as many samples"),
        ({"y0": torch.ones(2, dtype=torch.int64)}, "`y0` must be floating point"),
        ({"method": "rk4"}, "method='rk4' has no error estimate: give its step size as `first_step`"),
        ({"method": "implicit_adams"}, "method='implicit_adams' is not an explicit Runge-Kutta method"),
        ({"step_t": torch.ones(2, 2)}, r"step_t must be a tensor \[T\] or \[3, T\], or a list of 3"),
        ({"jump_t": [0.5]}, "jump_t must be a tensor"),
        ({"jump_t": torch.tensor([math.nan])}, "jump_t must be finite"),
        ({"step_t": torch.tensor([0.5], requires_grad=True)}, "step_t cannot require gradient"),
        ({"method": "dopri6"}, "dopri6"),
        ({"gradient": "discret"}, "Did you mean 'discrete'"),
        ({"gradient": "backsolve", "dense": True}, "gradient='backsolve' does not go with dense=True"),
        (
            {"gradient": "backsolve", "compact": False},
            "does not go with dense=False, compact=False",
        ),
        ({"controller": "PJ"}, "controller='PJ' is not known"),
        ({"controller": (1, 2)}, "three numbers"),
        ({"engine": "fast"}, "engine='fast' is not known"),
        ({"rtol": -1.0}, "rtol must not be negative"),
        ({"atol": torch.ones(4)}, "atol of shape"),
        ({"safety": 0}, "safety must be"),
        ({"factor_min": 2.0}, "factor_min must be from 0 to 1, but is 2"),
        ({"factor_max": 0.5}, "factor_max must be from 1"),
        ({"min_step": 2.0, "max_step": 1.0}, "min_step=2 is above max_step=1"),
        ({"max_step": "long"}, "max_step must be a number"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"first_step": 0.0}, "first_step must be positive"),
        ({"first_step": torch.ones(2)}, "one entry for each of the 3 samples"),
        ({"t_span": None}, "one of `t_span` and `t_eval`"),
        ({"t_span": (0.0, 1.0, 2.0)}, "t_span must be a pair"),
        ({"t_span": (0.0, math.nan)}, r"t_span\[1\] must be finite"),
        ({"t_span": (0.0, torch.ones(2))}, r"t_span\[1\] .* shape \(2,\)"),
        ({"t_eval": LATE}, "strictly from start to end in every row"),
        (
            {"t_eval": torch.tensor([0.0, 1.5])},
            "t_eval must lie within t_span, but row 0 goes from 0 to 1 and has t=1.5",
        ),
        ({"t_eval": torch.ones(2, 2)}, r"t_eval must be a tensor \[T\] or \[3, T\]"),
        ({"t_eval": torch.empty(0)}, "t_eval must hold at least one time, but is empty"),
        ({"t_eval": [torch.empty(0)] * 3}, "t_eval must hold at least one time, but is empty"),
        ({"t_eval": 0.5}, "t_eval must be a tensor"),
        ({"t_eval": torch.tensor([0.0, math.inf])}, "t_eval must be finite"),
    ],
    ids=lambda x: str(x)[:40] if isinstance(x, dict) else "",
)
def test_a_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    arguments = {**GOOD, **change}
    with pytest.raises((fastode.InvalidArgument, fastode.UnsupportedInput), match=message):
        solve(arguments.pop("func"), arguments.pop("y0"), arguments.pop("t_span"), **arguments)


def test_a_field_of_the_wrong_shape_is_named() -> None:
    with pytest.raises(fastode.FieldError, match=r"shape \(3, 3\), but the state has shape \(3, 2\)"):
        solve(lambda t, y: torch.ones(3, 3, dtype=torch.float64), Y0, (0.0, 1.0))
