"""A program as the right-hand side of a solve: how the state lies in registers, and the source of the slope."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..program import Program
from .emission import Emitted, Inputs, emit
from .layout import Layout, Tie
from .piece import Piece
from .settings import Settings
from .state import State


@dataclass(frozen=True)
class Field:
    """The source of a slope.

    The lines of ``emitted.body`` take the state from the variables ``s_0``, ... and the time from ``time``.

    Attributes:
        state: of the solver; the field sees the first ``program.state_width`` features of it.
        arguments: the parts of the per-row arguments that are read, by number.
        slope: an expression for each part of the state.
        shared_time: all rows are at the same time.
    """

    program: Program
    state: State
    arguments: dict[int, State]
    emitted: Emitted
    slope: list[str]
    shared_time: bool

    @property
    def parameters(self) -> list[str]:
        """Pointers to the per-row arguments and constants, the last parameters of a kernel."""
        return [
            *(f"argument_{a}" for a in self.arguments),
            *(f"constant_{c}" for c in self.emitted.constants),
        ]

    def begin(self) -> list[str]:
        """The first lines of a kernel: which rows the tile has, their arguments, and what follows from constants."""
        lines = [
            "first = tl.program_id(0).to(tl.int64) * ROWS",
            "lane = tl.arange(0, ROWS)",
            "live = lane < tl.minimum(count - first, ROWS).to(tl.int32)",
        ]
        for a, argument in self.arguments.items():
            lines += argument.load(f"argument_{a}", of_rows(f"argument_{a}", argument.features))
        return lines + self.emitted.before


def field_of(program: Program, settings: Settings, dtype: str, shared_time: bool) -> Field:
    """The field of a program with one output, whose first features are the derivative of its state.

    Args:
        dtype: of the state, as Triton names it.
        shared_time: all rows are at the same time, so that what depends on time alone is computed once a tile.

    Raises:
        NotFused: tiles cannot hold a value, or do not do what the program needs.
    """
    (out,) = program.outputs
    leaf = next((v for v, op in enumerate(program.ops) if op.name == "state"), None)
    ties = [] if leaf is None or leaf == out else [Tie(out, 0, leaf, 0, program.state_width)]
    layout = Layout(program, ties, settings.tile)
    state = State(tuple(layout.parts(out)), dtype)
    arguments = {
        op.data[0]: State(tuple(layout.parts(v)), dtype) for v, op in enumerate(program.ops) if op.name == "argument"
    }
    inputs = Inputs(
        time=Piece("time", rows=not shared_time),
        state=state.seen(program.state_width).pieces("s"),
        arguments={a: parts.pieces(f"argument_{a}") for a, parts in arguments.items()},
    )
    # what settles a value keeps the compiler from leaving matrices in shared memory, and so do slopes in memory
    emitted = emit(program, layout, inputs, settings, dtype, settle=settings.slopes_in_memory)
    slope = [piece.beside(part.padded > 0) for piece, part in zip(emitted.outputs[0], state.parts, strict=True)]
    return Field(program, state, arguments, emitted, slope, shared_time)


def of_rows(array: str, width: int | str = 1) -> str:
    """The places [ROWS] where the tile's rows begin in an array with ``width`` elements a row.

    The tile's place is a scalar of 64 bits, that of a row in it a number of 32: a vector of addresses takes twice the
    registers, for every array that a loop comes back to.
    """
    return f"({array} + first + lane)" if width == 1 else f"({array} + first * {width} + lane * {width})"


def whole_numbers(names: Sequence[str]) -> list[str]:
    """Parameters of a kernel; the number of rows may need 64 bits, the others are distances inside a tile."""
    return [f"{n}: tl.int64" if n in ("count", "max_steps") else f"{n}: tl.int32" for n in names]


def indented(lines: Sequence[str], depth: int = 1) -> list[str]:
    """``lines``, ``depth`` blocks deeper."""
    return ["    " * depth + line for line in lines]


def body_text(lines: Sequence[str]) -> str:
    """The body of a kernel, with the index vectors that its lines name defined at the top."""
    text = "\n".join(indented(lines)) + "\n"
    sizes = sorted({(axis, int(size)) for axis, size in re.findall(r"\b(columns|lines)_(\d+)\b", text)})
    place = {"columns": "[None, :]", "lines": "[:, None]"}
    defined = [f"{axis}_{size} = tl.arange(0, {size}){place[axis]}" for axis, size in sizes]
    return "".join(f"{line}\n" for line in indented(defined)) + text
