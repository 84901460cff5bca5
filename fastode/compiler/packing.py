"""States of several parts as one tensor, which is what the native engine solves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..kernels.reference.finish import Tolerance
from ..problem import check_tolerance
from ..stats import SolveStats
from ..tree import Parts, unflatten
from .refusal import NotServed

#: why there is no way to pack a state
ROWS_DIFFER = "the parts of the state do not have equally many rows"


@dataclass(frozen=True)
class Packing:
    """How the parts of a state lie in one tensor.

    Attributes:
        spec: structure of the state; see :func:`fastode.tree.flatten`.
        shapes: of the parts; without their first axis if ``batched``.
        batched: every part has one entry a row along its first axis: the tensor is [rows, features], else [features].
    """

    spec: Any
    shapes: tuple[torch.Size, ...]
    batched: bool

    @cached_property
    def widths(self) -> list[int]:
        """Features of the parts."""
        return [math.prod(shape) for shape in self.shapes]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Where each part ends, in features."""
        return tuple(itertools.accumulate(self.widths))

    def pack(self, parts: Parts) -> Tensor:
        """One tensor of the parts."""
        lead = parts[0].shape[:1] if self.batched else ()
        return torch.cat([p.reshape((*lead, n)) for p, n in zip(parts, self.widths, strict=True)], -1)

    def split(self, y: Tensor) -> Parts:
        """The parts of a tensor [..., features]."""
        pieces = y.split(self.widths, -1)
        return tuple([p.reshape((*y.shape[:-1], *shape)) for p, shape in zip(pieces, self.shapes, strict=True)])

    def unpack(self, y: Tensor) -> Any:
        """The state, or several of them, whose tensor this is."""
        return unflatten(self.spec, self.split(y))

    def tolerance(self, name: str, tol: Any, parts: Parts) -> Any:
        """A tolerance of the parts as one of the tensor: a number, or a tensor [features].

        Raises:
            NotServed: rows have tolerances of their own.
            InvalidArgument: it does not fit the parts, is negative or requires grad.
        """
        each = check_tolerance(name, tol, parts, self.spec, torch.float64)
        if (one := _the_number(each)) is not None:
            return one
        return torch.cat([self._of_features(v, p) for v, p in zip(each, parts, strict=True)])

    def tolerance_of_rows(self, given: Sequence[Tolerance], parts: Parts) -> Tolerance:
        """Tolerances of the parts, which may differ from row to row, as a number or a tensor like the packed one."""
        if (one := _the_number(given)) is not None:
            return one
        return self.pack(tuple([torch.as_tensor(v).expand(p.shape) for v, p in zip(given, parts, strict=True)]))

    def _of_features(self, tol: float | Tensor, part: Tensor) -> Tensor:
        tolerances = torch.as_tensor(tol, dtype=torch.float64).cpu()
        if self.batched and tolerances.ndim == part.ndim and len(tolerances) != 1:
            raise NotServed("tolerances of each row")
        return tolerances.expand(part[:1].shape if self.batched else part.shape).reshape(-1)


def _the_number(tolerances: Sequence[Tolerance]) -> float | None:
    """The one number that all of them are, or None."""
    numbers = [v for v in tolerances if not isinstance(v, Tensor)]
    return numbers[0] if len(numbers) == len(tolerances) and len(set(numbers)) == 1 else None


class Packed(nn.Module):
    """A field of a state of several parts as one of its tensor.

    Attributes:
        func: the field.
        packing: how the parts lie in the tensor.
    """

    def __init__(self, func: Callable[..., Any], packing: Packing) -> None:
        super().__init__()
        self.func = func
        self.packing = packing

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """``func(t, parts, *args)`` as one tensor like ``y``."""
        parts = self.packing.split(y)
        return self.packing.pack(Field(self.func, args, parts, self.packing.spec, SolveStats())(t, parts))


def packings(parts: Sequence[Tensor], spec: Any) -> list[Packing]:
    """The ways to pack a state, the better one first; none if its parts do not have the same rows.

    Parts whose first axes are equally long have rows along them. Parts of one axis, which may depend on each other
    along it, are one row as well.
    """
    ways = []
    if all(p.ndim > 0 for p in parts) and len({len(p) for p in parts}) == 1:
        ways.append(Packing(spec, tuple([p.shape[1:] for p in parts]), batched=True))
    if all(p.ndim <= 1 for p in parts):
        ways.append(Packing(spec, tuple([p.shape for p in parts]), batched=False))
    return ways
