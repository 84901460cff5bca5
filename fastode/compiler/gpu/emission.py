"""The operators of a program as Triton source, for one tile of rows in registers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..program import Kind, Op, Program, kinds, needed_for
from .affine import Affine
from .expressions import EXPRESSIONS, POWERS, UNBOUNDED, number_text
from .layout import Layout, Part, runs
from .matrices import Reader
from .piece import Piece
from .refusal import NotFused
from .settings import Settings


@dataclass
class Inputs:
    """What the kernel around a program gives it.

    Attributes:
        time: a column of the state's type.
        state, cotangent: pieces for the parts of those leaves.
        arguments: pieces for the parts of each per-row argument, by its number.
        live: the vector [ROWS] that is true in rows of the batch; sums over rows leave the others out.
    """

    time: Piece
    state: Sequence[Piece]
    arguments: Mapping[int, Sequence[Piece]] = field(default_factory=dict)
    cotangent: Sequence[Piece] = ()
    live: str = "live"


@dataclass(frozen=True)
class Emitted:
    """Source.

    Attributes:
        before: lines that need nothing but constants; once in a kernel.
        body: lines that need the inputs.
        outputs: pieces of each output of the program.
        constants: the numbers of the constants whose pointers ``constant_0``, ... the lines read.
    """

    before: list[str]
    body: list[str]
    outputs: list[list[Piece]]
    constants: list[int]


def emit(
    program: Program,
    layout: Layout,
    inputs: Inputs,
    settings: Settings,
    dtype: str,
    prefix: str = "v",
    values: Sequence[int] | None = None,
    pointer: str = "constant",
    settle: bool = False,
) -> Emitted:
    """The source of a program.

    Args:
        dtype: of the state, as Triton names it.
        prefix: of the variables' names; that of two programs in one kernel must differ.
        values: that are computed, and stand in ``Emitted.outputs``; None for the outputs of the program.
        pointer: of what ``body`` reads, see :class:`.matrices.Reader`.
        settle: factors of products, and ``values``, which may be factors too, are computed once, see :mod:`.settled`.

    Raises:
        NotFused: the program needs what tiles cannot do.
    """
    outputs = program.outputs if values is None else values
    return _Emission(program, layout, inputs, settings, dtype, prefix, pointer).result(outputs, settle)


class _Emission:
    def __init__(
        self,
        program: Program,
        layout: Layout,
        inputs: Inputs,
        settings: Settings,
        dtype: str,
        prefix: str,
        pointer: str,
    ) -> None:
        self.program, self.layout, self.inputs = program, layout, inputs
        self.dtype, self.prefix = dtype, prefix
        self.kinds = kinds(program)
        #: constants that something needs before the solve
        self.early = {i for v, op in enumerate(program.ops) if self.kinds[v] == Kind.CONSTANT for i in op.inputs}
        self.before: list[str] = []
        self.body: list[str] = []
        self.reader = Reader(prefix, self.before, self.body, pointer, settings.keep_vectors)
        self.affine = Affine(self.reader, settings, dtype)
        self.pieces: list[list[Piece]] = []

    def result(self, values: Sequence[int], settle: bool) -> Emitted:
        needed = needed_for(self.program, values)
        factors = {*values, *(op.inputs[0] for v, op in enumerate(self.program.ops) if op.name == "affine")}
        for v, op in enumerate(self.program.ops):
            pieces = self._value(v, op) if v in needed else []
            if settle and v in factors and op.name != "affine":
                pieces = [self._settled(v, n, piece) for n, piece in enumerate(pieces)]
            self.pieces.append(pieces)
        outputs = [self.pieces[v] for v in values]
        return Emitted(self.before, self.body, outputs, sorted(self.reader.constants))

    def _settled(self, v: int, n: int, piece: Piece) -> Piece:
        if not (piece.is_tile and piece.rows):
            return piece
        return replace(piece, name=self._assign(v, n, f"settled({piece.name})"))

    def _value(self, v: int, op: Op) -> list[Piece]:
        match op.name:
            case "time":
                return [self.inputs.time]
            case "state":
                return list(self.inputs.state)
            case "argument":
                return list(self.inputs.arguments[op.data[0]])
            case "cotangent":
                return list(self.inputs.cotangent)
            case "vector":
                return [self.reader.vector(op.data[0], part, v in self.early) for part in self.layout.parts(v)]
            case "literal":
                name = self._assign(v, 0, f"tl.full([], {number_text(op.data[0])}, {self.dtype})")
                return [Piece(name, rows=False, number=op.data[0])]
            case "gather":
                return self._gather(v, op)
            case "sum":
                return self._sum(v, op)
            case "rows_sum":
                return [self._rows_sum(v, n, p) for n, p in enumerate(self.pieces[op.inputs[0]])]
            case "affine":
                return self._affine(v, op)
        return [self._elementwise(v, op, n, part) for n, part in enumerate(self.layout.parts(v))]

    def _assign(self, v: int, n: int, expression: str) -> str:
        """A new variable for part ``n`` of value ``v``."""
        name = f"{self.prefix}{v}_{n}"
        lines = self.before if self.kinds[v] == Kind.CONSTANT else self.body
        lines.append(f"{name} = {expression}")
        return name

    def _gather(self, v: int, op: Op) -> list[Piece]:
        found = []
        pieces = {run.first: run for run in runs(op.inputs, op.data)}
        starts = sorted(pieces)
        for part in self.layout.parts(v):
            run = pieces[max(s for s in starts if s <= part.first)]
            feature = run.source_first + (0 if run.repeats else part.first - run.first)
            at = next(n for n, p in enumerate(self.layout.parts(run.source)) if p.first <= feature < p.first + p.width)
            piece = self.pieces[run.source][at]
            if not piece.is_tile:
                piece = Piece(piece.name, part.width, 0, piece.rows, True, piece.number)
            found.append(piece)
        return found

    def _sum(self, v: int, op: Op) -> list[Piece]:
        (x,) = op.inputs
        group = self.program.ops[x].width // op.width
        found = []
        for n in range(op.width):
            terms, rows = [], False
            for part, piece in zip(self.layout.parts(x), self.pieces[x], strict=True):
                if not n * group <= part.first < (n + 1) * group or piece.number == 0.0:
                    continue
                rows = rows or piece.rows
                if piece.is_tile:
                    terms.append(f"tl.sum({piece.masked()}, 1)" if piece.rows else f"tl.sum({piece.masked()})")
                else:
                    terms.append(piece.name if piece.width == 1 else f"{piece.name} * {float(piece.width)}")
            name = self._assign(v, n, " + ".join(terms) or f"tl.full([], 0.0, {self.dtype})")
            found.append(Piece(name, rows=rows))
        return found

    def _rows_sum(self, v: int, n: int, piece: Piece) -> Piece:
        """Of the rows of the tile; a later kernel sums over the tiles."""
        if not piece.rows:
            count = f"tl.sum({self.inputs.live}.to({self.dtype}))"
            name = self._assign(v, n, f"{piece.name} * {count}")
        elif piece.is_tile:
            name = self._assign(v, n, f"tl.sum(tl.where({self.inputs.live}[:, None], {piece.name}, 0.0), 0)[None, :]")
        else:
            name = self._assign(v, n, f"tl.sum(tl.where({self.inputs.live}, {piece.name}, 0.0))")
        return Piece(name, piece.width, piece.padded, False, piece.clean)

    def _affine(self, v: int, op: Op) -> list[Piece]:
        index, transposed = op.data
        (x, *bias) = op.inputs
        width = self.program.ops[x].width
        strides = (1, op.width) if transposed else (width, 1)
        once = self.kinds[v] == Kind.CONSTANT
        parts = zip(self.layout.parts(x), self.pieces[x], strict=True)
        inputs = [(part, piece) for part, piece in parts if piece.number != 0.0]
        results = self.layout.parts(v)
        moved = self.pieces[bias[0]] if bias else [None] * len(results)
        begun = [
            self.affine.begin(index, strides, part, inputs, b, once) for part, b in zip(results, moved, strict=True)
        ]
        names = [self._assign(v, n, text) if text else "" for n, text in enumerate(begun)]
        # a tile takes many registers while it is multiplied: all its products come before those of the next
        for part, piece in inputs:
            for n, result in enumerate(results):
                if self.affine.multiplies(result, piece):
                    product = self.affine.product(index, strides, result, part, piece, once)
                    names[n] = self._assign(v, n, f"{names[n]} + {product}" if names[n] else product)
        found = []
        for result, b, name in zip(results, moved, names, strict=True):
            rows = any(piece.rows for _, piece in inputs) or (b is not None and b.rows)
            # the padding is the sum of products with zeros, which need not be zero where a feature is not finite
            found.append(Piece(name, result.width, result.padded, rows, result.width == result.padded))
        return found

    def _elementwise(self, v: int, op: Op, n: int, part: Part) -> Piece:
        inputs = [self.pieces[i][n if self.program.ops[i].width == op.width else 0] for i in op.inputs]
        if op.name == "add" and 0.0 in (inputs[0].number, inputs[1].number):
            other = inputs[1] if inputs[0].number == 0.0 else inputs[0]
            return replace(other, width=part.width)
        expression = EXPRESSIONS.get(op.name)
        if expression is None:
            raise NotFused(f"operator {op.name!r}")
        text, number = expression.text, ""
        if op.data:
            number = f"tl.full([], {number_text(op.data[0])}, {self.dtype})"
        if op.name in UNBOUNDED and (not op.data or math.isinf(op.data[0])):
            text = UNBOUNDED[op.name]
        if op.name == "pow" and inputs[1].number is not None:
            text = POWERS.get(inputs[1].number, text)
        tile = any(p.is_tile for p in inputs)
        operands = [p.beside(tile) for p in inputs]
        name = self._assign(v, n, text.format(*operands, number=number, dtype=self.dtype))
        rows = any(p.rows for p in inputs)
        if not tile:
            return Piece(name, part.width, 0, rows)
        full = part.padded == part.width
        clean = full or (expression.keeps_zero and all(p.is_tile and p.clean for p in inputs))
        return Piece(name, part.width, part.padded, rows, clean)
