"""Reads of constants: vectors and blocks of matrices, each once.

Vectors are read before the solve and stay in registers, if there are some to spare. So do single elements of matrices,
up to a number. Blocks of matrices are read where they are used, in the loop over the stages: the compiler puts them in
shared memory once, unless the loop writes to memory, and reads them from the cache at every stage then. Read before the
loop they go the same way.
"""

from __future__ import annotations

from .layout import Part
from .piece import Piece

#: single elements of matrices that are kept in registers; more of them are read at every stage, from the cache
_MOST_SCALARS = 48


class Reader:
    """Adds lines that read constants.

    Args:
        prefix: of the variables.
        before, body: the lines of an emission.
        pointer: the variables ``{pointer}_{constant}`` point at what ``body`` reads.
        keep_vectors: whether vectors are read before the solve.

    Attributes:
        constants: the numbers of those that are read.
    """

    def __init__(
        self,
        prefix: str,
        before: list[str],
        body: list[str],
        pointer: str = "constant",
        keep_vectors: bool = True,
    ) -> None:
        self.prefix, self.pointer, self.keep_vectors = prefix, pointer, keep_vectors
        self.before, self.body = before, body
        self.constants: set[int] = set()
        self._known: dict[tuple[str, bool], str] = {}
        self._scalars = 0

    def vector(self, index: int, part: Part, once: bool, stride: int = 1, offset: int = 0) -> Piece:
        """Features of a constant vector, or of a line of a matrix, as a piece that is the same for all rows.

        Args:
            once: what it is used for is computed before the solve.
        """
        start = offset + part.first * stride
        if not part.padded:
            self._scalars += 1
            keep = self.keep_vectors and self._scalars <= _MOST_SCALARS
            return Piece(self._read(index, str(start), "", once or keep), rows=False)
        keep = once or self.keep_vectors
        name = self._read(index, _along("columns", part, stride, start), _mask("columns", part), keep)
        return Piece(name, part.width, part.padded, False)

    def block(self, index: int, down: tuple[Part, int], across: tuple[Part, int], once: bool) -> str:
        """A block of a matrix, [P, Q]; each side with the distance of its neighbours in memory."""
        (part, stride), (other, other_stride) = down, across
        start = part.first * stride + other.first * other_stride
        places = f"{_along('lines', part, stride, start)} + {_along('columns', other, other_stride, 0)}"
        masks = [m for m in (_mask("lines", part), _mask("columns", other)) if m]
        return self._read(index, places, " & ".join(f"({m})" for m in masks), once)

    def _read(self, index: int, places: str, mask: str, keep: bool) -> str:
        self.constants.add(index)
        other = f", mask={mask}, other=0.0" if mask else ""
        text = f"tl.load({'constant' if keep else self.pointer}_{index} + {places}{other})"
        known = self._known.get((text, keep))
        if known is None:
            known = self._known[text, keep] = f"{self.prefix}_read_{len(self._known)}"
            (self.before if keep else self.body).append(f"{known} = {text}")
        return known


def _along(axis: str, part: Part, stride: int, start: int) -> str:
    step = f"{axis}_{part.padded}" + (f" * {stride}" if stride != 1 else "")
    return f"{start} + {step}" if start else step


def _mask(axis: str, part: Part) -> str:
    return "" if part.width == part.padded else f"{axis}_{part.padded} < {part.width}"
