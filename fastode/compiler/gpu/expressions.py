"""The elementwise operators of a field program as expressions of Triton.

Functions that are not Triton's own are those of :mod:`.elementary`, where their accuracy is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Expression:
    """One operator.

    Attributes:
        text: with ``{0}``, ``{1}``, ... for the inputs; ``{number}`` for its datum, ``{dtype}`` for the type.
        keeps_zero: the value is 0 where all inputs are.
    """

    text: str
    keeps_zero: bool = False


EXPRESSIONS: dict[str, Expression] = {
    "neg": Expression("-{0}", True),
    "abs": Expression("tl.abs({0})", True),
    "sign": Expression("({0} > 0).to({dtype}) - ({0} < 0).to({dtype})", True),
    "sqrt": Expression("square_root({0})", True),
    "exp": Expression("exponential({0})"),
    "expm1": Expression("exponential_minus_one({0})", True),
    "log": Expression("tl.log({0})"),
    "log1p": Expression("logarithm_of_one_plus({0})", True),
    "sin": Expression("tl.sin({0})", True),
    "cos": Expression("tl.cos({0})"),
    "tanh": Expression("hyperbolic_tangent({0})", True),
    "sigmoid": Expression("tl.where({0} > {number}, 1.0, logistic({0}))"),
    "softplus": Expression("tl.where({0} > {number}, {0}, soft_plus({0}))"),
    # torch keeps NaN
    "relu": Expression("tl.where({0} <= 0, 0.0, {0})", True),
    "leaky_relu": Expression("tl.where({0} > 0, {0}, {0} * {number})", True),
    "erf": Expression("tl.erf({0})", True),
    "floor": Expression("tl.floor({0})", True),
    "round": Expression("nearest_integer({0})", True),
    "add": Expression("{0} + {1}", True),
    "sub": Expression("{0} - {1}", True),
    "mul": Expression("{0} * {1}", True),
    "div": Expression("divide({0}, {1})"),
    "pow": Expression("power_of({0}, {1})"),
    "atan2": Expression("arctangent({0}, {1})", True),
    "maximum": Expression("tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", True),
    "minimum": Expression("tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", True),
    "gt": Expression("({0} > {1}).to({dtype})", True),
    "ge": Expression("({0} >= {1}).to({dtype})"),
    "lt": Expression("({0} < {1}).to({dtype})", True),
    "le": Expression("({0} <= {1}).to({dtype})"),
    "eq": Expression("({0} == {1}).to({dtype})"),
    "ne": Expression("({0} != {1}).to({dtype})", True),
    "where": Expression("tl.where({0} != 0, {1}, {2})", True),
    "times_tanh_slope": Expression("{0} - {0} * {1} * {1}", True),
    "times_sigmoid_slope": Expression("{0} * ({1} - {1} * {1})", True),
}

#: powers with an exponent that is known, which are exact to a rounding or two
POWERS: dict[float, str] = {
    0.5: "square_root({0})",
    1.0: "{0}",
    2.0: "{0} * {0}",
    3.0: "{0} * {0} * {0}",
    4.0: "({0} * {0}) * ({0} * {0})",
    -1.0: "reciprocal({0})",
    -2.0: "reciprocal({0} * {0})",
}

#: operators whose datum is a threshold, without one
UNBOUNDED = {"sigmoid": "logistic({0})", "softplus": "soft_plus({0})"}


def number_text(x: float) -> str:
    """A number in the source, to its last bit."""
    if math.isfinite(x):
        return repr(x)
    return f'float("{x}")'
