"""Operators that are written out in simpler ones, such as angles and small matrices: solves are those of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastode.compiler.trace import trace

from .running import native
from .solving import assert_same

T = torch.tensor([0.0, 0.3, 0.8], dtype=torch.float64)
STEPS = {"method": "rk4", "options": {"step_size": 0.1}}


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


ANGLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "atan": lambda t, y: torch.atan(3 * y),
    "atan2": lambda t, y: torch.atan2(y, y.roll(1, -1)) - y,
    "asin and acos": lambda t, y: torch.asin(0.9 * torch.sin(y)) + torch.acos(torch.tanh(y)),
    "asinh": lambda t, y: torch.asinh(2 * y) - y,
    "acosh": lambda t, y: torch.acosh(1 + y * y),
    "atanh": lambda t, y: torch.atanh(0.9 * torch.sin(y)),
    "degrees": lambda t, y: torch.deg2rad(y) + torch.rad2deg(torch.sin(y)) * 0.01,
}

ROUNDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "floor and ceil": lambda t, y: 0.1 * torch.floor(3 * y) - 0.1 * torch.ceil(2 * y) - y,
    "round and trunc": lambda t, y: 0.1 * torch.round(3 * y) + 0.1 * torch.trunc(2 * y) - y,
    "round to decimals": lambda t, y: torch.round(y, decimals=1) + 0.01 * torch.round(100 * y, decimals=-1) - y,
    "frac": lambda t, y: torch.frac(3 * y) - y,
    "remainder": lambda t, y: torch.remainder(5 * y, 2.0) + y % (1 + y * y) - y,
    "fmod": lambda t, y: torch.fmod(5 * y, 2.0) + torch.fmod(y, 1 + y * y) - y,
    "division with rounding": lambda t, y: (
        torch.div(5 * y, 2, rounding_mode="floor") - torch.div(5 * y, 3, rounding_mode="trunc") - y
    ),
    "fmax and fmin": lambda t, y: torch.fmax(y, torch.sin(3 * y)) - torch.fmin(y, torch.cos(y)),
    "a wave": lambda t, y: torch.where(torch.remainder(t, 0.5) < 0.25, y, -y),
}


def square(y: Tensor, n: int) -> Tensor:
    """Matrices near the unit matrix, from the features of a state."""
    pieces = torch.stack([torch.sin((k + 1) * y.sum(-1)) for k in range(n * n)], -1)
    return 2 * torch.eye(n) + 0.3 * pieces.reshape(*y.shape[:-1], n, n)


MATRICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f"{name} of {n} rows": lambda t, y, n=n, f=f: f(square(y, n), y[..., :n]).sum(-1, keepdim=True) * torch.cos(y)
    for n in (1, 2, 3)
    for name, f in {
        "determinant": lambda a, b: torch.linalg.det(a)[..., None],
        "logarithm of the determinant": lambda a, b: torch.linalg.slogdet(a)[1][..., None] + torch.logdet(a)[..., None],
        "inverse": lambda a, b: torch.linalg.inv(a).flatten(-2),
        "solution for a vector": lambda a, b: torch.linalg.solve(a, b),
        "solution for a matrix": lambda a, b: torch.linalg.solve(a, torch.stack([b, b * b], -1)).flatten(-2),
        "solution from the right": lambda a, b: torch.linalg.solve(a, b[..., None, :], left=False).flatten(-2),
    }.items()
}


def bodies(t: Tensor, y: Tensor) -> Tensor:
    """Three bodies in the plane that pull at each other."""
    places = y.reshape(-1, 3, 2)
    return (torch.cdist(places, places) @ places / 9 - places).reshape(y.shape)


FIELDS = ANGLES | ROUNDED | MATRICES | {"distances": bodies}


def state(rows: int) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows)).requires_grad_()


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("rows", [1, 37])
def test_solves_and_gradients_are_those_of_torch(name: str, rows: int) -> None:
    assert_same(FIELDS[name], state(rows), T, **STEPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "func",
    [torch.atan2, torch.remainder, torch.fmod, torch.fmax, torch.fmin, torch.floor_divide, torch.heaviside],
    ids=lambda f: f.__name__,
)
def test_special_values_are_those_of_torch(func: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 7.0, 1e30, -1e30, torch.inf, -torch.inf, torch.nan]
    if func not in (torch.atan2, torch.fmax, torch.fmin, torch.heaviside):
        special = special[2:7]  # of quotients
    pairs = torch.cartesian_prod(torch.tensor(special), torch.tensor(special)).to(dtype)

    traced = trace(lambda t, y: func(y[:, :1], y[:, 1:]).expand(y.shape), (2,), dtype=dtype)
    value, _ = native(traced.program, 0.0, pairs, [], traced.constants.values(()))
    expected = func(pairs[:, 0], pairs[:, 1])
    torch.testing.assert_close(value[:, 0], expected, equal_nan=True)


def test_a_feature_whose_terms_cancel_is_no_reason_to_refuse() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:  # one component of the product is zero, or what rounding leaves of it
        a, b = torch.cat([y, y[:, :1]], 1), torch.cat([y.roll(1, 1), y[:, 1:]], 1)
        return torch.linalg.cross(a, b)[:, :2]

    for dtype in (torch.float32, torch.float64):
        assert trace(field, (2,), dtype=dtype).program
