"""What launches share: sizes of grids and tiles."""

from __future__ import annotations

#: columns and elements of a tile
WIDEST, ELEMENTS = 1024, 1024


def cdiv(n: int, block: int) -> int:
    """How many blocks hold ``n`` elements."""
    return -(-n // block)


def tile(columns: int) -> tuple[int, int]:
    """Rows and columns of a tile for rows of ``columns`` elements.

    It follows from ``columns`` alone, so that a row is added up in the same order in any batch.
    """
    wide = min(1 << max(columns - 1, 0).bit_length(), WIDEST)
    return ELEMENTS // wide, wide
