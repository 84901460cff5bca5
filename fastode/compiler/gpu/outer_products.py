"""What the constants receive at every stage: sums over the rows of a tile, in text.

The gradient of a matrix is ``sum_r g_r x_r'``, in blocks of a part of g by a part of x:

    g        x        block
    tile     tile     the product of the transpose of g and x
    column   tile     a line: the sum over the rows of g times the tile; tile and column likewise
    column   column   a number

What does not differ from row to row is a factor, or a sum over the rows already.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..derive import Adjoint
from .gradients import Block, Gradients, Term
from .layout import Part
from .piece import Piece
from .refusal import NotFused
from .settings import Settings

_Value = tuple[Part, Piece]
#: Triton multiplies no smaller tiles
_LEAST_ROWS = 16


def gradients_of(derived: Adjoint, outputs: Sequence[Sequence[_Value]], settings: Settings, dtype: str) -> Gradients:
    """The gradients of the constants of an adjoint program.

    Args:
        outputs: the parts of what ``derived.matrices`` and ``derived.vectors`` need, in their order.

    Raises:
        NotFused: tiles have too few rows.
    """
    terms: list[Term] = []
    sizes: dict[int, int] = {}
    left = list(outputs)
    for use, (constant, transposed) in enumerate(derived.matrices):
        g, x, *left = left
        height, width = _width(g), _width(x)
        strides = (1, height) if transposed else (width, 1)
        sizes[constant] = height * width
        pairs = [(a, b) for a in g for b in x if a[1].number != 0.0 and b[1].number != 0.0]
        terms += [_of_matrix(constant, use, strides, a, b, settings.rows) for a, b in pairs]
    for use, (constant, vector) in enumerate(zip(derived.vectors, left, strict=True), len(derived.matrices)):
        sizes[constant] = _width(vector)
        terms += [_of_vector(constant, use, part, piece) for part, piece in vector if piece.number != 0.0]
    return Gradients(terms, dict(sorted(sizes.items())), settings, dtype)


def _of_vector(constant: int, use: int, part: Part, piece: Piece) -> Term:
    shape = f"1, {part.padded}" if part.padded else ""
    place = _plus(str(part.first), _along("columns", part, 1))
    block = Block(constant, place, _inside("columns", part), shape)
    return Term(block, use, _line(part, piece), (piece.name,))


def _of_matrix(constant: int, use: int, strides: tuple[int, int], left: _Value, right: _Value, rows: int) -> Term:
    """What a part of g and one of x give."""
    (g_part, g), (x_part, x) = left, right
    line, column = strides
    both, tile = bool(g_part.padded and x_part.padded), bool(g_part.padded or x_part.padded)
    # one side alone runs along the columns of the block
    down = "lines" if both else "columns"
    first = g_part.first * line + x_part.first * column
    place = _plus(str(first), _along(down, g_part, line), _along("columns", x_part, column))
    masks = [f"({m})" for m in (_inside(down, g_part), _inside("columns", x_part)) if m]
    sizes = [p.padded for p in (g_part, x_part) if p.padded]
    shape = ", ".join(map(str, sizes if both else [1, *sizes])) if tile else ""
    block = Block(constant, place, " & ".join(masks), shape)
    names = (g.name, x.name)
    if not (g.rows and x.rows):
        lines = [_line(part, piece) for part, piece in (left, right)]
        return Term(block, use, f"tl.trans({lines[0]}) * {lines[1]}" if both else " * ".join(lines), names)
    if both:
        if rows < _LEAST_ROWS:
            raise NotFused(f"the gradient of a matrix of tiles needs {_LEAST_ROWS} rows at least, not {rows}")
        g_tile, x_tile = [f"tl.where(active[:, None], {_tile(p, v)}, 0.0)" for p, v in (left, right)]
        return Term(block, use, f"tl.trans({g_tile}), {x_tile}", names, True)
    factors = [_tile(part, piece) if part.padded else piece.beside(tile) for part, piece in (left, right)]
    return Term(block, use, _summed(" * ".join(factors), tile), names)


def _line(part: Part, piece: Piece) -> str:
    """The sum over the rows, as a number or a line [1, P]."""
    total = _summed(piece.name, piece.is_tile) if piece.rows else piece.name
    return f"({total} + {_zeros(part, piece)})" if part.padded and not piece.is_tile else f"({total})"


def _summed(value: str, tile: bool) -> str:
    """The sum over the rows that count."""
    return (
        f"tl.sum(tl.where(active[:, None], {value}, 0.0), 0)[None, :]"
        if tile
        else f"tl.sum(tl.where(active, {value}, 0.0), 0)"
    )


def _tile(part: Part, piece: Piece) -> str:
    """As a tile; a column may stand for several equal features."""
    return piece.name if piece.is_tile else f"({piece.beside(True)} + {_zeros(part, piece)})"


def _zeros(part: Part, piece: Piece) -> str:
    return f"tl.zeros([1, {part.padded}], {piece.name}.dtype)"


def _width(value: Sequence[_Value]) -> int:
    last, _ = value[-1]
    return last.first + last.width


def _along(axis: str, part: Part, stride: int) -> str:
    return f"{axis}_{part.padded} * {stride}" if part.padded else ""


def _inside(axis: str, part: Part) -> str:
    return f"{axis}_{part.padded} < {part.width}" if part.width < part.padded else ""


def _plus(*terms: str) -> str:
    return " + ".join(t for t in terms if t)
