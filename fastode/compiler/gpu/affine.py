"""Affine maps of tiles and columns: one sum over the parts of the input for each part of the result.

    input    result   product
    column   column   a number of the matrix times the column
    column   tile     the column times a column of the matrix: an outer product
    tile     column   the sum over the tile's columns of the tile times a line of the matrix
    tile     tile     a matrix product; of a tile that is the same for all rows, a sum over a block of the matrix

So the input is never gathered into one tile: the columns of the matrix are addressed where each of its features is.
"""

from __future__ import annotations

from collections.abc import Sequence

from .layout import Part
from .matrices import Reader
from .piece import Piece
from .settings import Settings


class Affine:
    """Writes affine maps."""

    def __init__(self, reader: Reader, settings: Settings, dtype: str) -> None:
        self.reader = reader
        self.settings = settings
        self.dtype = dtype

    def begin(
        self,
        index: int,
        strides: tuple[int, int],
        result: Part,
        inputs: Sequence[tuple[Part, Piece]],
        bias: Piece | None,
        once: bool,
    ) -> str:
        """One part of ``M x + b`` as an expression, but for products of tiles; empty if it is made of those alone.

        Args:
            index: the number of the constant M.
            strides: how far the lines, and the columns, of M are from the next in memory.
            inputs: the parts of x that are not zero.
            once: x is made of constants.
        """
        tile = result.padded > 0
        terms = [] if bias is None else [bias.beside(tile)]
        terms += [
            self._term(index, strides, result, part, piece, once)
            for part, piece in inputs
            if not self.multiplies(result, piece)
        ]
        if not inputs and (bias is None or bias.is_tile != tile):
            terms.append(f"tl.full([{f'1, {result.padded}' if tile else ''}], 0.0, {self.dtype})")
        return " + ".join(terms)

    @staticmethod
    def multiplies(result: Part, piece: Piece) -> bool:
        """Whether what a piece of x adds to a part of the result is a product of tiles."""
        return result.padded > 0 and piece.is_tile and piece.rows

    def product(self, index: int, strides: tuple[int, int], result: Part, part: Part, piece: Piece, once: bool) -> str:
        """That product."""
        line, column = strides
        block = self.reader.block(index, (part, column), (result, line), once)
        precision = "ieee" if self.dtype == "tl.float64" else self.settings.precision
        return f'tl.dot({piece.masked()}, {block}, input_precision="{precision}", out_dtype={self.dtype})'

    def _term(self, index: int, strides: tuple[int, int], result: Part, part: Part, piece: Piece, once: bool) -> str:
        line, column = strides
        if piece.is_tile:
            if not result.padded:
                weights = self.reader.vector(index, part, once, column, result.first * line).name
                product = f"{piece.masked()} * {weights}"
                return f"tl.sum({product}, 1)" if piece.rows else f"tl.sum({product})"
            block = self.reader.block(index, (result, line), (part, column), once)
            return f"tl.sum({block} * {piece.masked()}, 1)[None, :]"
        weights = self._column_weights(index, strides, result, part, once)
        if piece.number == 1.0:
            return weights
        return f"{piece.beside(result.padded > 0)} * {weights}"

    def _column_weights(self, index: int, strides: tuple[int, int], result: Part, part: Part, once: bool) -> str:
        """What a column of the input is multiplied with; one that stands for several features has the sum of theirs."""
        line, column = strides
        if part.width == 1:
            return self.reader.vector(index, result, once, line, part.first * column).name
        if result.padded:
            block = self.reader.block(index, (result, line), (part, column), once)
            return f"tl.sum({block}, 1)[None, :]"
        return f"tl.sum({self.reader.vector(index, part, once, column, result.first * line).name})"
