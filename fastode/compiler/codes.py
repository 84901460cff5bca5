"""Codes: for every element of a traced tensor, which scalar of the field program it is, and of which row.

    code = (row + 1) << 40 | scalar          the scalar's value in a row of the batch
    code =                   scalar          a scalar that is the same for all rows

Scalars number the features of all values of the program. Scalar 0 is the number 0, so that an operator of torch that
fills with zeros (``tril``, ``pad``) fills codes rightly too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .program import Builder

_BITS = 40
_SCALAR = (1 << _BITS) - 1
ROW = 1 << _BITS

#: what a scalar is: a number, a feature of a constant, or something else
NUMBER, CONSTANT, COMPUTED = 0, 1, 2


class RowsMixed(Exception):
    """Elements of several rows meet, or rows are treated differently."""


@dataclass(frozen=True)
class Lines:
    """Lines of codes that are computed together: those of all rows, or those that are the same for all rows.

    Attributes:
        unique: [U, K]; scalars of the lines that differ from each other.
        positions: [P]; which lines of the tensor these are.
        rows: [P]; the row part of their codes.
        choice: [P]; which of the unique lines each of them is.
    """

    unique: list[tuple[int, ...]]
    positions: Tensor
    rows: Tensor
    choice: Tensor


def gathered_lines(codes: Tensor, rows: int) -> list[Lines]:
    """Lines sorted into those with a row and those without.

    Args:
        codes: [P, K]; a line is a set of elements that one result needs.
        rows: of the batch.

    Raises:
        RowsMixed: a line has elements of two rows, or the lines of two rows differ.
    """
    row = rows_of(codes)
    line_row = row.amax(1)
    if bool(((row != 0) & (row != line_row[:, None])).any()):
        raise RowsMixed("combines different rows of the batch")
    scalars = codes & _SCALAR
    groups = []
    free = line_row == 0
    if bool(free.any()):
        positions = free.nonzero()[:, 0]
        groups.append(_lines(scalars[positions], positions, torch.zeros_like(positions), 1))
    if not bool(free.all()):
        positions = (~free).nonzero()[:, 0]
        order = torch.argsort(line_row[positions], stable=True)
        positions = positions[order]
        of_rows = line_row[positions]
        expected = torch.arange(1, rows + 1) * ROW
        if len(positions) % rows or bool((of_rows.reshape(rows, -1) != expected[:, None]).any()):
            raise RowsMixed("does not do the same for every row of the batch")
        groups.append(_lines(scalars[positions], positions, of_rows, rows))
    return groups


def _lines(scalars: Tensor, positions: Tensor, of_rows: Tensor, rows: int) -> Lines:
    each = scalars.reshape(rows, -1, scalars.shape[1])
    if bool((each != each[:1]).any()):
        raise RowsMixed("does not do the same for every row of the batch")
    unique: dict[tuple[int, ...], int] = {}
    choice = [unique.setdefault(tuple(line), len(unique)) for line in each[0].tolist()]
    return Lines(list(unique), positions, of_rows, torch.tensor(choice).repeat(rows))


def rows_of(codes: Tensor) -> Tensor:
    """The row part of codes; 0 for what is the same for all rows."""
    return codes & ~_SCALAR


class Scalars:
    """The scalars of a program that is being built."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.value_of: list[int] = []
        self.feature_of: list[int] = []
        self._first: dict[int, int] = {}
        self._sort = torch.zeros(1024, dtype=torch.uint8)
        assert self.number(0.0) == 0

    def of(self, value: int) -> Tensor:
        """[width]; the scalars that are the features of a value."""
        width = self.builder.width(value)
        first = self._first.get(value)
        if first is None:
            first = self._first[value] = len(self.value_of)
            self.value_of += [value] * width
            self.feature_of += range(width)
            while first + width > len(self._sort):
                self._sort = torch.cat([self._sort, torch.zeros_like(self._sort)])
            sorts = {"literal": NUMBER, "vector": CONSTANT}
            self._sort[first : first + width] = sorts.get(self.builder.ops[value].name, COMPUTED)
        return torch.arange(first, first + width)

    def number(self, x: float) -> int:
        """The scalar that is a number."""
        # NaN is not equal to itself; one object for all keeps it a single literal
        return int(self.of(self.builder.literal(math.nan if math.isnan(x) else x))[0])

    def sort(self, codes: Tensor) -> int:
        """The most that any element is: ``NUMBER``, ``CONSTANT`` or ``COMPUTED``."""
        return int(self._sort[codes & _SCALAR].amax()) if codes.numel() else NUMBER

    def is_constant(self, scalar: int) -> bool:
        """Whether a scalar is a feature of a constant."""
        return int(self._sort[scalar]) == CONSTANT

    def features(self, scalars: Sequence[int]) -> list[tuple[int, int]]:
        """``(value, feature)`` of each scalar."""
        return [(self.value_of[s], self.feature_of[s]) for s in scalars]


def scalars_of(codes: Tensor) -> list[int]:
    """The scalars of codes, in order."""
    found: list[int] = (codes & _SCALAR).flatten().tolist()
    return found


def like(tensor: Tensor, codes: Tensor) -> Tensor:
    """``codes`` in memory laid out as ``tensor`` is, so that the same views of both exist.

    Elements of a tensor may share memory (an expanded one); nobody writes to such a tensor.
    """
    result = torch.empty_strided(tensor.shape, _strides(tensor), dtype=torch.int64)
    return result.copy_(codes.reshape(tensor.shape))


def _strides(tensor: Tensor) -> list[int]:
    """The strides of a tensor that has no gaps and shares no memory, else those of a contiguous one."""
    order = sorted(range(tensor.dim()), key=lambda d: (tensor.stride(d), tensor.shape[d]))
    expected = 1
    dense = True
    for d in order:
        dense = dense and (tensor.shape[d] <= 1 or tensor.stride(d) == expected)
        expected *= tensor.shape[d]
    return list(tensor.stride()) if dense else list(torch.empty(tensor.shape, device="meta").stride())
