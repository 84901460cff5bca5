"""Elementary functions of the kernels, in units of the last place. The interpreter has no approximate instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastode.compiler.gpu import source

COUNT = 4096


def evaluated(expression: str, dtype: torch.dtype, *inputs: Tensor) -> Tensor:
    """An expression of the kernels of ``x0``, ``x1``, ..."""
    text = "    i = tl.arange(0, COUNT)\n"
    text += "".join(f"    x{n} = tl.load(x{n}_of_rows + i)\n" for n in range(len(inputs)))
    text += f"    tl.store(out + i, {expression})\n"
    parameters = [*(f"x{n}_of_rows" for n in range(len(inputs))), "out", "COUNT: tl.constexpr"]
    out = torch.full((COUNT,), torch.nan, dtype=dtype)
    source.kernel("elementary", parameters, text, [], [])[(1,)](*inputs, out, COUNT=COUNT)
    return out


def points(low: float, high: float, dtype: torch.dtype) -> Tensor:
    """Both signs where the range has them, small numbers and large ones."""
    linear = np.linspace(low, high, COUNT // 2)
    size = np.geomspace(1e-30 if dtype == torch.float32 else 1e-200, max(abs(low), high), COUNT // 4)
    both = np.concatenate([linear, np.clip(size, low, high), np.clip(-size, low, high)])
    return torch.tensor(both, dtype=torch.float64).to(dtype)


def ulp(found: Tensor, expected: np.ndarray[Any, Any]) -> float:
    """The largest error in units of the last place of the exact value."""
    if found.dtype == torch.float32:
        digits, least = 23, 2.0**-149
    else:
        digits, least = 52, 2.0**-1074
    with np.errstate(divide="ignore"):
        unit = np.maximum(np.exp2(np.floor(np.log2(np.abs(expected))) - digits), least)
    return float(np.max(np.abs(found.numpy().astype(np.longdouble) - expected) / unit))


def soft_plus(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


#: expression, exact function, ranges for float32 and float64, and the errors that elementary.py promises
FUNCTIONS: dict[str, tuple[str, Any, tuple[tuple[float, float], tuple[float, float]], tuple[float, float]]] = {
    "exp": ("exponential(x0)", np.exp, ((-87.0, 88.7), (-708.0, 709.7)), (1.5, 1.5)),
    "expm1": ("exponential_minus_one(x0)", np.expm1, ((-30.0, 88.7), (-50.0, 709.7)), (2.5, 3.0)),
    "log1p": ("logarithm_of_one_plus(x0)", np.log1p, ((-0.999, 1e6), (-0.999, 1e6)), (4.0, 4.0)),
    "tanh": ("hyperbolic_tangent(x0)", np.tanh, ((-12.0, 12.0), (-25.0, 25.0)), (4.0, 4.0)),
    "sigmoid": ("logistic(x0)", lambda x: 1 / (1 + np.exp(-x)), ((-87.0, 30.0), (-700.0, 50.0)), (4.0, 3.0)),
    "softplus": ("soft_plus(x0)", soft_plus, ((-80.0, 50.0), (-600.0, 100.0)), (4.0, 4.0)),
    "atan": ("arctangent(x0, x0 * 0.0 + 1.0)", np.arctan, ((-1e3, 1e3), (-1e3, 1e3)), (2.0, 3.0)),
    "sqrt": ("square_root(x0)", np.sqrt, ((0.0, 1e10), (0.0, 1e10)), (0.51, 0.51)),
    "reciprocal": ("reciprocal(x0)", lambda x: 1 / x, ((0.5, 1e10), (0.5, 1e10)), (0.51, 0.51)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_within_what_is_promised(name: str, dtype: torch.dtype) -> None:
    expression, exact, ranges, bounds = FUNCTIONS[name]
    which = int(dtype == torch.float64)
    x = points(*ranges[which], dtype)
    expected = exact(x.numpy().astype(np.longdouble))
    assert ulp(evaluated(expression, dtype, x), expected) <= bounds[which]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_powers_are_within_what_is_promised(dtype: torch.dtype) -> None:
    x = points(1e-3, 1e3, dtype)
    y = torch.linspace(-6.0, 6.0, COUNT, dtype=dtype)
    found = evaluated("power_of(x0, x1)", dtype, x, y)
    base, exponent = (v.numpy().astype(np.longdouble) for v in (x, y))
    expected = base**exponent
    if dtype == torch.float32:
        assert ulp(found, expected) <= 1.0
    else:
        error = np.abs(found.numpy() / expected - 1) / (2e-16 * (2 + np.abs(exponent * np.log2(base))))
        assert float(error.max()) <= 1.0


SPECIAL = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-310, -1e-310, 1e300, -1e300, 1.0, -1.0, 2.0, -2.0, 0.5, -3.0]


@pytest.mark.parametrize(
    ("expression", "exact"),
    [
        ("exponential(x0)", torch.exp),
        ("exponential_minus_one(x0)", torch.expm1),
        ("logarithm_of_one_plus(x0)", torch.log1p),
        ("hyperbolic_tangent(x0)", torch.tanh),
        ("logistic(x0)", torch.sigmoid),
        ("soft_plus(x0)", torch.nn.functional.softplus),
        ("power_of(x0, x1)", torch.pow),
        ("arctangent(x0, x1)", torch.atan2),
        ("nearest_integer(x0)", torch.round),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_infinities_nan_and_zeros_are_as_in_torch(expression: str, exact: Any, dtype: torch.dtype) -> None:
    values = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    x = values.repeat_interleave(len(SPECIAL)).repeat(COUNT // len(SPECIAL) ** 2 + 1)[:COUNT].contiguous()
    y = values.repeat(COUNT // len(SPECIAL) + 1)[:COUNT].contiguous()
    inputs = (x, y) if "x1" in expression else (x,)
    found, expected = evaluated(expression, dtype, *inputs), exact(*inputs)
    if "power" in expression:
        # infinite exponents of -1 and signed zeros of odd powers are not worth their branches
        keep = ~((x == -1) & y.isinf()) & ~((x == 0) & (x.signbit())) & ~((x == -torch.inf) & y.isfinite())
        found, expected = found[keep], expected[keep]
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=0, equal_nan=True)
