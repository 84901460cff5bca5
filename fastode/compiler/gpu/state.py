"""The state of a solve in registers: the text that loads, stores and combines its parts.

The variables of a vector ``x`` of the state's layout are ``x_0``, ``x_1``, ...: one a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .layout import Part
from .piece import Piece


@dataclass(frozen=True)
class State:
    """The parts of a vector of each row.

    Attributes:
        parts: in the order of the features.
        dtype: as Triton names it.
    """

    parts: tuple[Part, ...]
    dtype: str

    @property
    def features(self) -> int:
        return self.parts[-1].first + self.parts[-1].width

    def seen(self, width: int) -> State:
        """The parts of the first ``width`` features."""
        return State(tuple(p for p in self.parts if p.first < width), self.dtype)

    def pieces(self, name: str) -> list[Piece]:
        """The variables, whose padding may be anything."""
        return [Piece(f"{name}_{n}", p.width, p.padded, True, p.width == p.padded) for n, p in enumerate(self.parts)]

    def load(self, name: str, address: str, mask: str = "live") -> list[str]:
        """Lines that read a vector from ``address``, the places [ROWS] of the rows' first features."""
        return [
            f"{name}_{n} = tl.load({self._at(address, p)}, mask={self._mask(mask, p)}, other=0.0)"
            for n, p in enumerate(self.parts)
        ]

    def store(self, values: Sequence[str], address: str, mask: str = "live") -> list[str]:
        """Lines that write expressions, one a part, to ``address`` where ``mask`` holds."""
        return [
            f"tl.store({self._at(address, p)}, {value}, mask={self._mask(mask, p)})"
            for value, p in zip(values, self.parts, strict=True)
        ]

    def names(self, name: str) -> list[str]:
        return [f"{name}_{n}" for n in range(len(self.parts))]

    def each(self, name: str, expression: str, vectors: Sequence[str], per_row: Sequence[str] = ()) -> list[str]:
        """Lines ``name = expression`` for every part.

        Args:
            expression: with ``{x}`` for each name of ``vectors``, which are of the state's layout, and of ``per_row``,
                which
                are vectors [ROWS].
        """
        lines = []
        for n, p in enumerate(self.parts):
            given = {x: f"{x}_{n}" for x in vectors}
            given.update({x: f"{x}[:, None]" if p.padded else x for x in per_row})
            lines.append(f"{name}_{n} = {expression.format(**given)}")
        return lines

    def zeros(self, name: str) -> list[str]:
        """Lines that make a vector of zeros."""
        return [f"{name}_{n} = tl.zeros([{self._shape(p)}], {self.dtype})" for n, p in enumerate(self.parts)]

    def sum_of_squares(self, name: str, first: int = 0, end: int | None = None) -> str:
        """The sum over features ``first`` to ``end`` of ``x * x``, [ROWS]."""
        end = self.features if end is None else end
        terms = []
        for n, p in enumerate(self.parts):
            low, high = max(first - p.first, 0), min(end - p.first, p.width)
            square = f"{name}_{n} * {name}_{n}"
            if low >= high:
                continue
            if p.padded:
                columns = f"columns_{p.padded}"
                bounds = [f"({columns} >= {low})"] if low > 0 else []
                bounds += [f"({columns} < {high})"] if high < p.padded else []
                square = f"tl.where({' & '.join(bounds)}, {square}, 0.0)" if bounds else square
                square = f"tl.sum({square}, 1)"
            terms.append(square)
        return " + ".join(terms)

    def tolerances(self) -> list[str]:
        """Lines that read ``rtol`` and ``atol`` of every element; 1 beyond the batch and the features."""
        lines = []
        for name in ("rtol", "atol"):
            for n, p in enumerate(self.parts):
                lane = "lane[:, None]" if p.padded else "lane"
                feature = f"({p.first} + columns_{p.padded})" if p.padded else str(p.first)
                place = f"{name} + first * row_stride + {lane} * row_stride + {feature} * feature_stride"
                lines.append(f"{name}_{n} = tl.load({place}, mask={self._mask('live', p)}, other=1.0)")
        return lines

    def _shape(self, part: Part) -> str:
        return f"ROWS, {part.padded}" if part.padded else "ROWS"

    def _at(self, address: str, part: Part) -> str:
        if not part.padded:
            return f"{address} + {part.first}"
        return f"{address}[:, None] + {part.first} + columns_{part.padded}"

    def _mask(self, mask: str, part: Part) -> str:
        if not part.padded:
            return mask
        inside = "" if part.width == part.padded else f" & (columns_{part.padded} < {part.width})"
        return f"{mask}[:, None]{inside}"
