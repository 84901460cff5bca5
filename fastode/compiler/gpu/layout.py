"""Which features of a value are kept together: as a column of one feature, or as a tile of several.

The features of every value are cut into consecutive parts. A part of one feature is a *column*, [ROWS]; a wider one is
a *tile*, [ROWS, P] with P a power of two of 16 at least. Values that meet feature by feature are cut at the same
places. A gather then only renames parts, and an affine map is a sum over pairs of parts, so that neither ever moves
features between tiles. Narrow parts are cut into columns, for which sums and gathers are free and products are plain
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..elementwise import ELEMENTWISE
from ..program import Program
from .refusal import NotFused

#: parts of at most so many features become columns: a tile has 16 columns at least, most of them empty
NARROW = 8
#: a wider value of 16 rows does not fit the registers of one block of threads
WIDEST = 256
#: of one value; a column takes a register in every thread
MOST_PARTS = 64


@dataclass(frozen=True)
class Part:
    """Consecutive features of a value."""

    first: int
    width: int

    @property
    def padded(self) -> int:
        """Columns of the tile that holds it; 0 for a column."""
        return 0 if self.width == 1 else max(16, 1 << (self.width - 1).bit_length())


@dataclass(frozen=True)
class Tie:
    """``count`` features of two values, from ``first`` and ``other_first`` on, that are cut at the same places."""

    value: int
    first: int
    other: int
    other_first: int
    count: int


@dataclass(frozen=True)
class Run:
    """Consecutive features of a gather, from ``first`` on: neighbours of one source, or one feature of it repeated."""

    first: int
    count: int
    source: int
    source_first: int
    repeats: bool


def runs(inputs: Sequence[int], features: Sequence[tuple[int, int]]) -> list[Run]:
    """A gather's features as runs, as long as possible."""
    found: list[Run] = []
    for at, (k, f) in enumerate(features):
        last = found[-1] if found else None
        if last is not None and last.source == inputs[k]:
            repeats = f == last.source_first and (last.repeats or last.count == 1)
            follows = not last.repeats and f == last.source_first + last.count
            if repeats or follows:
                found[-1] = Run(last.first, last.count + 1, last.source, last.source_first, repeats)
                continue
        found.append(Run(at, 1, inputs[k], f, False))
    return found


class Layout:
    """The parts of every value of a program.

    Args:
        ties: what else is cut at the same places, such as a state and its derivative.
        widest: features of a tile.

    Raises:
        NotFused: a value has too many parts, or a part is too wide.
    """

    def __init__(self, program: Program, ties: Sequence[Tie] = (), widest: int = WIDEST) -> None:
        self.program = program
        self.widest = widest
        self._cuts: list[set[int]] = [set() for _ in program.ops]
        self._ties = list(ties)
        for tie in ties:
            self._cut(tie.value, tie.first, tie.first + tie.count)
            self._cut(tie.other, tie.other_first, tie.other_first + tie.count)
        for v in range(len(program.ops)):
            self._connect(v)
        self._settle()
        while self._cut_parts():
            self._settle()
        self._check()

    def parts(self, value: int) -> list[Part]:
        """In order."""
        width = self.program.ops[value].width
        ends = [0, *sorted(self._cuts[value]), width]
        return [Part(a, b - a) for a, b in pairwise(ends)]

    def _connect(self, v: int) -> None:
        op, ops = self.program.ops[v], self.program.ops
        if op.name == "gather":
            for run in runs(op.inputs, op.data):
                self._cut(v, run.first, run.first + run.count)
                self._cut(run.source, run.source_first, run.source_first + (1 if run.repeats else run.count))
                if not run.repeats:
                    self._ties.append(Tie(v, run.first, run.source, run.source_first, run.count))
        elif op.name == "sum" and op.width > 1:
            (x,) = op.inputs
            self._cut(x, *range(0, ops[x].width, ops[x].width // op.width))
            self._cut(v, *range(op.width))
        elif op.name in ELEMENTWISE or op.name == "rows_sum":
            same = [i for i in op.inputs if ops[i].width == op.width]
            self._ties += [Tie(v, 0, i, 0, op.width) for i in same]
        elif op.name in ("lookup", "scatter"):
            raise NotFused("fused kernels do not look values up by a number")
        elif op.name == "affine" and len(op.inputs) == 2:
            self._ties.append(Tie(v, 0, op.inputs[1], 0, op.width))

    def _cut(self, value: int, *places: int) -> None:
        width = self.program.ops[value].width
        self._cuts[value].update(p for p in places if 0 < p < width)

    def _settle(self) -> None:
        """Carry cuts along the ties until nothing changes."""
        changed = True
        while changed:
            changed = False
            for tie in self._ties:
                shift = tie.other_first - tie.first
                here = {c for c in self._cuts[tie.value] if tie.first <= c <= tie.first + tie.count}
                there = {c - shift for c in self._cuts[tie.other] if 0 <= c - tie.other_first <= tie.count}
                before = len(self._cuts[tie.value]) + len(self._cuts[tie.other])
                self._cut(tie.value, *there)
                self._cut(tie.other, *(c + shift for c in here))
                changed |= len(self._cuts[tie.value]) + len(self._cuts[tie.other]) > before

    def _cut_parts(self) -> bool:
        """Narrow parts into columns, wide ones in tiles that are not too wide; whether there were any."""
        changed = False
        for v in range(len(self._cuts)):
            for part in self.parts(v):
                if 1 < part.width <= NARROW or part.width > self.widest:
                    step = 1 if part.width <= NARROW else self.widest
                    self._cut(v, *range(part.first, part.first + part.width + 1, step))
                    changed = True
        return changed

    def _check(self) -> None:
        for v, op in enumerate(self.program.ops):
            parts = self.parts(v)
            if len(parts) > MOST_PARTS:
                raise NotFused(
                    f"a value of {op.width} features ({op.name}) falls into {len(parts)} parts, at most {MOST_PARTS} "
                    f"are allowed"
                )
            if op.width > WIDEST:
                raise NotFused(f"a value of {op.width} features ({op.name}), at most {WIDEST} are allowed")
