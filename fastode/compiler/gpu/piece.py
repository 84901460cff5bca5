"""What stands for one part of a value in the source of a kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A variable of the source.

    Attributes:
        name: of the variable.
        width: features that it stands for; a column may stand for several that are equal.
        padded: columns of a tile, 0 for a column.
        rows: whether it differs from row to row: [ROWS] or [ROWS, P], else 0-dim or [1, P].
        clean: whether the columns of a tile beyond ``width`` are zero; they are anything otherwise.
        number: the number that it is, where that is known.
    """

    name: str
    width: int = 1
    padded: int = 0
    rows: bool = True
    clean: bool = True
    number: float | None = None

    @property
    def is_tile(self) -> bool:
        return self.padded > 0

    def beside(self, tile: bool) -> str:
        """The variable as it is written in an expression whose result is a tile, or a column."""
        return f"{self.name}[:, None]" if tile and self.rows and not self.is_tile else self.name

    def masked(self) -> str:
        """The variable with zeros in the columns beyond ``width``."""
        return self.name if self.clean else f"tl.where(columns_{self.padded} < {self.width}, {self.name}, 0.0)"
