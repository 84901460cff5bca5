"""Operators of torch written out in simpler ones, which the tracer sees in their place.

Each function has the arguments of the operator of its name. The formulas are those of torch's documentation; NaN stays
NaN where torch keeps it (hence ``where`` and no minimum in the clamps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Number = float | Tensor
Dims = int | Sequence[int] | None


def add(a: Number, b: Number, alpha: float) -> Tensor:
    return torch.add(a, torch.mul(b, alpha))


def sub(a: Number, b: Number, alpha: float) -> Tensor:
    return torch.sub(a, torch.mul(b, alpha))


def rsub(a: Tensor, b: Number, alpha: float) -> Tensor:
    return b - torch.mul(a, alpha)


def pow(x: Number, exponent: float) -> Tensor:
    assert isinstance(x, Tensor)
    if exponent == int(exponent) and abs(exponent) <= 16:
        n = int(abs(exponent))
        if n == 0:
            return torch.ones_like(x)
        power = _power(x, n)
        return power if exponent > 0 else 1 / power
    if abs(exponent) == 0.5:
        return x.sqrt() if exponent > 0 else 1 / x.sqrt()
    return x.pow(torch.scalar_tensor(exponent, dtype=x.dtype, device=x.device))


def _power(x: Tensor, n: int) -> Tensor:
    """``x ** n``, by squaring."""
    if n == 1:
        return x
    half = _power(x, n // 2)
    square = half * half
    return square * x if n % 2 else square


def rsqrt(x: Tensor) -> Tensor:
    return x.sqrt().reciprocal()


def square(x: Tensor) -> Tensor:
    return x * x


def tan(x: Tensor) -> Tensor:
    return x.sin() / x.cos()


def sinh(x: Tensor) -> Tensor:
    return 0.5 * (torch.expm1(x) - torch.expm1(-x))


def cosh(x: Tensor) -> Tensor:
    return 0.5 * (torch.exp(x) + torch.exp(-x))


def asin(x: Tensor) -> Tensor:
    return torch.atan2(x, torch.sqrt((1 - x) * (1 + x)))


def acos(x: Tensor) -> Tensor:
    return torch.atan2(torch.sqrt((1 - x) * (1 + x)), x)


def asinh(x: Tensor) -> Tensor:
    a = torch.where(x < 0, -x, x)
    # the square of a large number would be infinite
    far = a > 2.0**30
    near = torch.where(far, 0.0, a)
    y = torch.log1p(near + near * near / (1 + torch.sqrt(1 + near * near)))
    y = torch.where(far, torch.log(torch.where(far, a, 1.0)) + math.log(2), y)
    return torch.where(x < 0, -y, y)


def acosh(x: Tensor) -> Tensor:
    t = x - 1
    return torch.log1p(t + torch.sqrt(t) * torch.sqrt(t + 2))


def atanh(x: Tensor) -> Tensor:
    return 0.5 * (torch.log1p(x) - torch.log1p(-x))


def ceil(x: Tensor) -> Tensor:
    return -torch.floor(-x)


def trunc(x: Tensor) -> Tensor:
    return torch.where(x < 0, ceil(x), torch.floor(x))


def frac(x: Tensor) -> Tensor:
    return x - trunc(x)


def round(x: Tensor, decimals: int = 0) -> Tensor:
    power = 10.0 ** abs(decimals)
    return torch.round(x * power) / power if decimals > 0 else torch.round(x / power) * power


def floor_divide(a: Number, b: Number) -> Tensor:
    return torch.floor(torch.true_divide(a, b))


def div(a: Number, b: Number, rounding_mode: str) -> Tensor:
    return floor_divide(a, b) if rounding_mode == "floor" else trunc(torch.true_divide(a, b))


def remainder(a: Number, b: Number) -> Tensor:
    rest = a - b * floor_divide(a, b)
    # the rounding of the quotient may have taken it to the next integer
    return torch.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)


def fmod(a: Tensor, b: Number) -> Tensor:
    rest = a - b * trunc(a / b)
    size = b.abs() if isinstance(b, Tensor) else abs(b)
    return torch.where((rest != 0) & ((rest < 0) != (a < 0)), torch.where(a < 0, rest - size, rest + size), rest)


def fmax(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a >= b) | isnan(b), a, b)


def fmin(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a <= b) | isnan(b), a, b)


def heaviside(x: Tensor, values: Tensor) -> Tensor:
    return torch.where(x == 0, values, (x > 0).to(x.dtype))


def deg2rad(x: Tensor) -> Tensor:
    return x * (math.pi / 180)


def rad2deg(x: Tensor) -> Tensor:
    return x * (180 / math.pi)


def exp2(x: Tensor) -> Tensor:
    return torch.exp(x * math.log(2))


def log2(x: Tensor) -> Tensor:
    return torch.log(x) / math.log(2)


def log10(x: Tensor) -> Tensor:
    return torch.log(x) / math.log(10)


def sinc(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1.0, torch.sin(math.pi * x) / torch.where(x == 0, 1.0, math.pi * x))


def hypot(a: Tensor, b: Tensor) -> Tensor:
    return torch.sqrt(a * a + b * b)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    high = torch.maximum(a, b)
    return torch.where((a == b) & (a.abs() == math.inf), a, high + torch.log1p(torch.exp(-(a - b).abs())))


def logit(x: Tensor, eps: float | None = None) -> Tensor:
    if eps is not None:
        x = torch.where(x < eps, eps, torch.where(x > 1 - eps, 1 - eps, x))
    return torch.log(x / (1 - x))


def isnan(x: Tensor) -> Tensor:
    return x != x


def isinf(x: Tensor) -> Tensor:
    return x.abs() == math.inf


def nan_to_num(x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    limits = torch.finfo(x.dtype)
    x = torch.where(x == math.inf, limits.max if posinf is None else posinf, x)
    x = torch.where(x == -math.inf, limits.min if neginf is None else neginf, x)
    return torch.where(x != x, 0.0 if nan is None else nan, x)


def logical_and(a: Tensor, b: Tensor) -> Tensor:
    return (a != 0) & (b != 0)


def logical_or(a: Tensor, b: Tensor) -> Tensor:
    return (a != 0) | (b != 0)


def logical_xor(a: Tensor, b: Tensor) -> Tensor:
    return (a != 0) ^ (b != 0)


def addcmul(x: Tensor, a: Tensor, b: Tensor, value: float = 1) -> Tensor:
    return x + (a * b if value == 1 else value * a * b)


def addcdiv(x: Tensor, a: Tensor, b: Tensor, value: float = 1) -> Tensor:
    return x + (a / b if value == 1 else value * a / b)


def lerp(a: Tensor, b: Tensor, weight: Number) -> Tensor:
    return a + weight * (b - a)


def clamp(x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    x = x if min is None else clamp_min(x, min)
    return x if max is None else clamp_max(x, max)


def clamp_min(x: Tensor, min: Number) -> Tensor:
    if isinstance(min, Tensor):
        shared = _SLOPE_AT_TENSOR < 1
        return torch.maximum(x, min) if shared else torch.where((x < min) | isnan(min), min, x)
    return torch.where(x < min if _SLOPE_AT_NUMBER == 1 else x <= min, min, x)


def clamp_max(x: Tensor, max: Number) -> Tensor:
    if isinstance(max, Tensor):
        shared = _SLOPE_AT_TENSOR < 1
        return torch.minimum(x, max) if shared else torch.where((x > max) | isnan(max), max, x)
    return torch.where(x > max if _SLOPE_AT_NUMBER == 1 else x >= max, max, x)


def _slope_of_clamp(limit: Number) -> float:
    """That of torch at 0, its limit."""
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros((), requires_grad=True)
        (slope,) = torch.autograd.grad(torch.clamp(x, min=limit), x)
    return float(slope)


#: torch 2.13 has 1 for both; torch 2.15 has 0 for a number, and for a tensor 1/2, as it and x are equal
_SLOPE_AT_NUMBER, _SLOPE_AT_TENSOR = _slope_of_clamp(0.0), _slope_of_clamp(torch.zeros(()))


def hardtanh(x: Tensor, min_val: float = -1, max_val: float = 1) -> Tensor:
    # its slope at the limits is 0 in all versions
    return torch.where(x <= min_val, min_val, torch.where(x >= max_val, max_val, x))


def relu6(x: Tensor) -> Tensor:
    return hardtanh(x, 0, 6)


def hardsigmoid(x: Tensor) -> Tensor:
    return hardtanh(x + 3, 0, 6) / 6


def hardswish(x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, x, x * (x + 3) / 6))


def hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    return torch.where(x.abs() <= lambd, 0.0, x)


def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    return torch.where(x > lambd, x - lambd, torch.where(x < -lambd, x + lambd, x * 0))


def threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    return torch.where(x <= threshold, value, x)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))


def elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    # expm1 of a large x would be infinite, and its slope times zero NaN
    low = torch.expm1(input_scale * torch.where(x > 0, 0.0, x))
    return torch.where(x > 0, scale * x, alpha * scale * low)


def celu(x: Tensor, alpha: float = 1) -> Tensor:
    return elu(x, alpha, 1, 1 / alpha)


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    return F.softplus(beta * x, 1, threshold) / beta


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def log_sigmoid_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    return -F.softplus(-x, threshold=math.inf), x.new_zeros(0)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    a, b = x.chunk(2, dim)
    return a * torch.sigmoid(b)


def _prelu_kernel(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight * x)


def threshold_backward(g: Tensor, x: Tensor, threshold: float) -> Tensor:
    return torch.where(x <= threshold, 0.0, g)


def softplus_backward(g: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    return g * torch.where(beta * x > threshold, 1.0, torch.sigmoid(beta * x))


def silu_backward(g: Tensor, x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def gelu_backward(g: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        t = torch.tanh(scale * (x + cubic * x * x * x))
        return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (scale * (1 + 3 * cubic * x * x)))
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return g * (0.5 * (1 + torch.erf(x * math.sqrt(0.5))) + x * density)


def leaky_relu_backward(g: Tensor, x: Tensor, slope: float, is_result: bool) -> Tensor:
    return torch.where(x > 0, g, slope * g)


def elu_backward(g: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, x: Tensor) -> Tensor:
    if is_result:
        low = input_scale * (x + alpha * scale)
    else:
        low = alpha * scale * input_scale * torch.exp(input_scale * torch.where(x > 0, 0.0, x))
    return g * torch.where(x > 0, scale, low)


#: by the operator's name
ELEMENTWISE_DECOMPOSITIONS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in list(globals().items())
    if callable(function) and getattr(function, "__module__", None) == __name__ and name != "_power"
}
