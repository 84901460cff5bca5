"""Initial value problems with known solutions, fields that remember, and the methods by kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastode.methods import methods

ADAPTIVE = ("adaptive_heun", "fehlberg2", "bosh3", "dopri5", "dopri8")
ADAPTIVE_ALL = (*ADAPTIVE, "tsit5")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAMS = tuple(name for name in ("explicit_adams", "implicit_adams", "fixed_adams") if name in methods())
IMPLICIT = tuple(
    name
    for name in (
        "implicit_euler", "implicit_midpoint", "trapezoid", "sdirk2", "trbdf2", "radauIIA3", "radauIIA5", "gl4", "gl6"
    )
    if name in methods()
)  # fmt: skip
GRID = (*FIXED, *ADAMS, *IMPLICIT)
#: every method of torchdiffeq 0.2.5 that steps itself
TORCHDIFFEQ = (*ADAPTIVE, *FIXED, *ADAMS)


class Constant(nn.Module):
    """``y' = a + (y - (a t + b))^5``, solved by ``y = a t + b``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.2))
        self.b = nn.Parameter(torch.tensor(3.0))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.a + (y - (self.a * t + self.b)) ** 5

    def exact(self, t: Tensor) -> Tensor:
        return self.a * t + self.b


class Linear(nn.Module):
    """``y' = A y`` with a skew-symmetric ``A``."""

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        u = torch.randn(n, n, generator=torch.Generator().manual_seed(3)) * 0.3
        self.matrix = nn.Parameter(2 * u - (u + u.T))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.T

    def exact(self, t: Tensor) -> Tensor:
        start = torch.arange(1, len(self.matrix) + 1, dtype=self.matrix.dtype)
        return torch.stack([torch.matrix_exp(self.matrix * (s - t[0])) @ start for s in t])


class Sine(nn.Module):
    """``y' = 2 y / t + t^4 sin 2t - t^2 + 4 t^3``."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return 2 * y / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3

    def exact(self, t: Tensor) -> Tensor:
        return (
            -0.5 * t**4 * torch.cos(2 * t) + 0.5 * t**3 * torch.sin(2 * t) + 0.25 * t**2 * torch.cos(2 * t)
            - t**3 + 2 * t**4 + (math.pi - 0.25) * t**2
        )  # fmt: skip


PROBLEMS: dict[str, Callable[[], Any]] = {"constant": Constant, "linear": Linear, "sine": Sine}


class Recorder(nn.Module):
    """A field that remembers when it was evaluated; its parameters and callbacks are those of the wrapped one."""

    def __init__(self, field: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.field = field
        self.times: list[float] = []

    def forward(self, t: Tensor, y: Any) -> Any:
        self.times.append(float(t.detach()))
        return self.field(t, y)


class Net(nn.Module):
    """A small network of the time and the last axis of the state."""

    def __init__(self, features: int = 3, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.w1 = nn.Parameter(0.6 * torch.randn(features, 8, dtype=dtype, generator=generator))
        self.b1 = nn.Parameter(0.3 * torch.randn(8, dtype=dtype, generator=generator))
        self.w2 = nn.Parameter(0.6 * torch.randn(8, features, dtype=dtype, generator=generator))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.w1 + self.b1 * t) @ self.w2


class NetOfPair(nn.Module):
    """A field of a pair of states [.., 3] and [..]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        dx = self.net(t, y[0])
        return dx, -y[1] * t.cos() + dx.sum(-1)


def oscillator(t: Tensor, y: Any) -> Any:
    """Elementwise, of any shape and structure: a bounded slope, or rotation where complex; tame in both directions."""
    if isinstance(y, tuple):
        return tuple(oscillator(t, p) for p in y)
    return (0.9j * y if y.is_complex() else torch.cos(y)) + torch.sin(3 * t)
