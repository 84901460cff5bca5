"""Explanations of fields: the program in words, or why there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastode.compiler.explain import explain
from fastode.errors import InvalidArgument

from .registry import Wrapped


def test_a_program_is_shown_with_the_names_of_the_parameters() -> None:
    net = Wrapped(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), timed=True)
    explanation = explain(net, torch.zeros(4, 2))
    assert explanation.compiles and explanation.reason is None and explanation.program is not None
    lines = [line.split("  ")[0] for line in str(explanation).splitlines()]
    assert lines[:4] == [
        "v3 = [y, t]",
        "v4 = net.0.weight @ v3 + net.0.bias",
        "v5 = tanh(v4)",
        "dy/dt = net.2.weight @ v5 + net.2.bias",
    ]
    assert "for each row: 80 flops of matrix products, 8 elementwise operations" in str(explanation)
    assert "net.0.weight [8, 3]" in str(explanation)


def test_features_are_guessed_from_a_module() -> None:
    timed = explain(Wrapped(nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 19)), timed=True))
    assert timed.program is not None and timed.program.state_width == 19

    class Pendulum(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            angle, speed = y.unbind(-1)
            return torch.stack([speed, -torch.sin(angle)], -1)

    pendulum = explain(Pendulum())
    assert pendulum.program is not None and pendulum.program.state_width == 2


def test_arguments_and_times_are_shown() -> None:
    text = str(explain(lambda t, y, a, w: w @ (a * t) + y, torch.zeros(2), torch.zeros(2), torch.zeros(2, 2)))
    assert "argument 1 @" in text and "argument 0 * t" in text


def test_a_refusal_is_shown_with_its_line() -> None:
    explanation = explain(lambda t, y: y - y.mean(0), torch.zeros(4, 2))
    assert not explanation.compiles and explanation.program is None
    assert "different rows" in str(explanation.reason)
    assert "test_explain.py" in str(explanation)


def test_a_state_is_asked_for_where_nothing_tells_its_features() -> None:
    with pytest.raises(InvalidArgument, match="`y0`"):
        explain(lambda t, y: y)
