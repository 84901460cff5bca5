"""Fields with wide values, and programs of fields as the GPU engine takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from compiler.registry import Wrapped, column
from torch import Tensor, nn

import fastode
import fastode.nn
from fastode.compiler.gpu.fused import FusedProgram
from fastode.compiler.gpu.settings import Settings
from fastode.compiler.program import Program


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Gru(nn.Module):
    """Slices of one affine map of three times the width."""

    def __init__(self, features: int = 20) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, features)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.cell(torch.ones_like(y[:, :3]) * 0.2, y) - y


class Conditioned(nn.Module):
    """The state, the time and a per-row argument side by side."""

    def __init__(self, features: int = 12) -> None:
        super().__init__()
        self.net = mlp(features + 1 + 5, 33, features)

    def forward(self, t: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return self.net(torch.cat([y, column(t, y), c], 1))


class Skipping(nn.Module):
    """Padded features that are 1 (``exp`` of nothing) beside the state."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 40), nn.Linear(52, 12)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.down(torch.cat([torch.exp(0.1 * self.up(y)), y], 1))


class Normed(nn.Module):
    """Sums over a padded tile, and a rotation of features that falls into columns."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(12, 40), nn.LayerNorm(40), nn.Linear(40, 12)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.down(F.silu(self.norm(self.up(y)))).roll(1, -1)


class Mirrored(nn.Module):
    """Features in reverse order between wide maps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y.flip(-1))) + y.roll(3, -1)


#: field and features of the state; ``Conditioned`` takes an argument of five features for each row
WIDE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "two_hidden_layers_of_64": (lambda: Wrapped(mlp(2, 64, 64, 2)), 2),
    "padded_layers": (lambda: Wrapped(mlp(3, 33, 17, 3)), 3),
    "time_beside_the_state": (lambda: Wrapped(mlp(4, 40, 3), True), 3),
    "wide_state": (lambda: Wrapped(mlp(20, 20, 20)), 20),
    "gru": (Gru, 20),
    "conditioned": (Conditioned, 12),
    "skipping": (Skipping, 12),
    "normed": (Normed, 12),
    "mirrored": (Mirrored, 20),
    "concatsquash": (lambda: fastode.nn.MLPField(2, hidden=(64, 64)), 2),
    "concatsquash_of_a_wide_state": (lambda: fastode.nn.MLPField(12, hidden=(40,)), 12),
}


@dataclass
class Traced:
    """A program with what it takes.

    Attributes:
        arguments: of each row, with the noise of Hutchinson's estimate last.
    """

    program: Program
    arguments: list[Tensor]
    constants: list[Tensor]
    dtype: torch.dtype
    shared_time: bool

    @property
    def features(self) -> int:
        """Of a state of the solver."""
        return self.program.ops[self.program.outputs[0]].width

    def fused(self, **settings: Any) -> FusedProgram:
        """Its kernels, for tiles of 16 rows."""
        return FusedProgram(self.program, self.dtype, self.shared_time, Settings(**{"rows": 16, **settings}))


def traced(
    func: Callable[..., Any],
    y: Tensor,
    args: tuple[Any, ...] = (),
    shared_time: bool = False,
    divergence: str | None = None,
) -> Traced:
    """The program of a field for states like ``y`` [R, ...]."""
    native = fastode.compile(func).native(y, args, time_per_row=not shared_time, divergence=divergence)
    arguments = [a for a, per_row in zip(args, native.per_row, strict=True) if per_row]
    if divergence == "hutchinson":
        arguments.append(torch.randn(y.flatten(1).shape, dtype=y.dtype))
    constants = [c.detach() for c in native.constants(args, y.dtype)]
    return Traced(native.traced.program, arguments, constants, y.dtype, shared_time)


def wide(name: str, dtype: torch.dtype, rows: int, divergence: str | None = None, shared_time: bool = False) -> Traced:
    """One of ``WIDE``."""
    make, features = WIDE[name]
    args = (torch.randn(rows, 5, dtype=dtype),) if name == "conditioned" else ()
    y = torch.randn(rows, features, dtype=dtype)
    return traced(make().to(dtype), y, args, shared_time, divergence)
