"""Elementwise operators of a field program: what they compute, and their partial derivatives as program.

Each rule has a definition in torch and, for every input, a function that multiplies a direction by the partial
derivative. Forward and reverse differentiation use the same function. Comparisons give 1 or 0 and have no derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .program import Builder

#: (builder, inputs, result, data, direction) -> direction times the partial derivative
Partial = Callable[[Builder, tuple[int, ...], int, tuple[Any, ...], int], int]


@dataclass(frozen=True)
class Elementwise:
    """One operator.

    Attributes:
        torch: the definition; takes the inputs, then the numbers in ``data``.
        partials: for each input; ``None`` where the derivative is zero everywhere.
    """

    torch: Callable[..., Tensor]
    partials: tuple[Partial | None, ...]


def _unary(direction: Callable[[Builder, int, int, int], int]) -> tuple[Partial]:
    """A partial from ``(builder, x, result, direction)``."""
    return (lambda b, inputs, out, data, g: direction(b, inputs[0], out, g),)


def _sigmoid(x: Tensor, threshold: float = math.inf) -> Tensor:
    return torch.where(x > threshold, 1.0, torch.sigmoid(x))


def _softplus(x: Tensor, threshold: float = math.inf) -> Tensor:
    return torch.where(x > threshold, x, x.clamp_min(0) + torch.log1p(torch.exp(-x.abs())))


def _compare(operator: Callable[[Tensor, Tensor], Tensor]) -> Elementwise:
    return Elementwise(lambda a, b: operator(a, b).to(torch.result_type(a, b)), (None, None))


def _chosen(b: Builder, name: str, chosen: int, other: int, g: int) -> int:
    """``g`` where ``chosen`` is the larger (smaller), half of it where both are equal, as torch has it."""
    share = b.elementwise("mul", b.literal(0.5), b.elementwise("eq", chosen, other))
    return b.elementwise("mul", g, b.elementwise("add", b.elementwise(name, chosen, other), share))


def _pow_base(b: Builder, inputs: tuple[int, ...], out: int, data: tuple[Any, ...], g: int) -> int:
    base, exponent = inputs
    less = b.elementwise("sub", exponent, b.literal(1.0))
    slope = b.elementwise("mul", exponent, b.elementwise("pow", base, less))
    # x ** 0 has slope 0 also where x is 0
    zero = b.literal(0.0)
    return b.elementwise("mul", g, b.elementwise("where", b.elementwise("eq", exponent, zero), zero, slope))


def _pow_exponent(b: Builder, inputs: tuple[int, ...], out: int, data: tuple[Any, ...], g: int) -> int:
    base, exponent = inputs
    slope = b.elementwise("mul", out, b.elementwise("log", base))
    # 0 ** c has slope 0 for c >= 0, where log(0) is infinite
    zero = b.literal(0.0)
    flat = b.elementwise("mul", b.elementwise("eq", base, zero), b.elementwise("ge", exponent, zero))
    return b.elementwise("mul", g, b.elementwise("where", flat, zero, slope))


def _square_of_length(b: Builder, x: int, y: int) -> int:
    return b.elementwise("add", b.elementwise("mul", x, x), b.elementwise("mul", y, y))


ELEMENTWISE: dict[str, Elementwise] = {
    "neg": Elementwise(torch.neg, _unary(lambda b, x, s, g: b.elementwise("neg", g))),
    "abs": Elementwise(torch.abs, _unary(lambda b, x, s, g: b.elementwise("mul", g, b.elementwise("sign", x)))),
    "sign": Elementwise(torch.sign, (None,)),
    "sqrt": Elementwise(
        torch.sqrt,
        _unary(lambda b, x, s, g: b.elementwise("div", b.elementwise("mul", b.literal(0.5), g), s)),
    ),
    "exp": Elementwise(torch.exp, _unary(lambda b, x, s, g: b.elementwise("mul", g, s))),
    "expm1": Elementwise(
        torch.expm1,
        _unary(lambda b, x, s, g: b.elementwise("mul", g, b.elementwise("add", s, b.literal(1.0)))),
    ),
    "log": Elementwise(torch.log, _unary(lambda b, x, s, g: b.elementwise("div", g, x))),
    "log1p": Elementwise(
        torch.log1p,
        _unary(lambda b, x, s, g: b.elementwise("div", g, b.elementwise("add", x, b.literal(1.0)))),
    ),
    "sin": Elementwise(torch.sin, _unary(lambda b, x, s, g: b.elementwise("mul", g, b.elementwise("cos", x)))),
    "cos": Elementwise(
        torch.cos,
        _unary(lambda b, x, s, g: b.elementwise("neg", b.elementwise("mul", g, b.elementwise("sin", x)))),
    ),
    "tanh": Elementwise(torch.tanh, _unary(lambda b, x, s, g: b.elementwise("times_tanh_slope", g, s))),
    # data: above this threshold the value is 1 (the slope of torch's softplus)
    "sigmoid": Elementwise(_sigmoid, _unary(lambda b, x, s, g: b.elementwise("times_sigmoid_slope", g, s))),
    # data: above this threshold the value is x, as in torch
    "softplus": Elementwise(
        _softplus,
        (lambda b, inputs, out, data, g: b.elementwise("mul", g, b.elementwise("sigmoid", inputs[0], data=data)),),
    ),
    "relu": Elementwise(
        torch.relu,
        _unary(lambda b, x, s, g: b.elementwise("mul", g, b.elementwise("gt", x, b.literal(0.0)))),
    ),
    # data: the slope below zero
    "leaky_relu": Elementwise(
        lambda x, slope: torch.nn.functional.leaky_relu(x, slope),
        (
            lambda b, inputs, out, data, g: b.elementwise(
                "where",
                b.elementwise("gt", inputs[0], b.literal(0.0)),
                g,
                b.elementwise("mul", b.literal(data[0]), g),
            ),
        ),
    ),
    "erf": Elementwise(
        torch.erf,
        _unary(
            lambda b, x, s, g: b.elementwise(
                "mul",
                b.elementwise("mul", b.literal(2 / math.sqrt(math.pi)), g),
                b.elementwise("exp", b.elementwise("neg", b.elementwise("mul", x, x))),
            )
        ),
    ),
    "floor": Elementwise(torch.floor, (None,)),
    "round": Elementwise(torch.round, (None,)),
    "atan2": Elementwise(
        torch.atan2,
        (
            lambda b, i, s, d, g: b.elementwise("div", b.elementwise("mul", g, i[1]), _square_of_length(b, *i)),
            lambda b, i, s, d, g: b.elementwise(
                "neg", b.elementwise("div", b.elementwise("mul", g, i[0]), _square_of_length(b, *i))
            ),
        ),
    ),
    "add": Elementwise(torch.add, (lambda b, i, s, d, g: g, lambda b, i, s, d, g: g)),
    "sub": Elementwise(torch.sub, (lambda b, i, s, d, g: g, lambda b, i, s, d, g: b.elementwise("neg", g))),
    "mul": Elementwise(
        torch.mul,
        (lambda b, i, s, d, g: b.elementwise("mul", g, i[1]), lambda b, i, s, d, g: b.elementwise("mul", g, i[0])),
    ),
    "div": Elementwise(
        torch.div,
        (
            lambda b, i, s, d, g: b.elementwise("div", g, i[1]),
            lambda b, i, s, d, g: b.elementwise("neg", b.elementwise("mul", b.elementwise("div", g, i[1]), s)),
        ),
    ),
    "pow": Elementwise(torch.pow, (_pow_base, _pow_exponent)),
    "maximum": Elementwise(
        torch.maximum,
        (
            lambda b, i, s, d, g: _chosen(b, "gt", i[0], i[1], g),
            lambda b, i, s, d, g: _chosen(b, "gt", i[1], i[0], g),
        ),
    ),
    "minimum": Elementwise(
        torch.minimum,
        (
            lambda b, i, s, d, g: _chosen(b, "lt", i[0], i[1], g),
            lambda b, i, s, d, g: _chosen(b, "lt", i[1], i[0], g),
        ),
    ),
    "gt": _compare(torch.gt),
    "ge": _compare(torch.ge),
    "lt": _compare(torch.lt),
    "le": _compare(torch.le),
    "eq": _compare(torch.eq),
    "ne": _compare(torch.ne),
    # the first input where the condition is not 0, else the second
    "where": Elementwise(
        lambda c, a, b: torch.where(c != 0, a, b),
        (
            None,
            lambda b, i, s, d, g: b.elementwise("where", i[0], g, b.literal(0.0)),
            lambda b, i, s, d, g: b.elementwise("where", i[0], b.literal(0.0), g),
        ),
    ),
    # g (1 - s^2): the product with the slope of tanh, from its value s
    "times_tanh_slope": Elementwise(
        lambda g, s: g * (1 - s * s),
        (
            lambda b, i, s, d, g: b.elementwise("times_tanh_slope", g, i[1]),
            lambda b, i, s, d, g: b.elementwise(
                "mul", b.elementwise("mul", b.literal(-2.0), i[1]), b.elementwise("mul", g, i[0])
            ),
        ),
    ),
    # g s (1 - s): the product with the slope of the logistic function, from its value s
    "times_sigmoid_slope": Elementwise(
        lambda g, s: g * (s * (1 - s)),
        (
            lambda b, i, s, d, g: b.elementwise("times_sigmoid_slope", g, i[1]),
            lambda b, i, s, d, g: b.elementwise(
                "mul",
                b.elementwise("mul", g, i[0]),
                b.elementwise("sub", b.literal(1.0), b.elementwise("mul", b.literal(2.0), i[1])),
            ),
        ),
    ),
}
