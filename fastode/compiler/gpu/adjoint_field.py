"""A program and its vector-Jacobian product as the right-hand side of a sweep: the source of slopes and cotangents.

A sweep evaluates the field twice at every stage: once on the way to the later stages, and once again beside its
vector-Jacobian product, so that no value of a stage has to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..derive import adjoint
from ..program import Builder, Program
from .emission import Emitted, Inputs, emit
from .field import of_rows
from .gradients import Gradients
from .layout import Layout, Tie
from .outer_products import gradients_of
from .piece import Piece
from .settings import Settings
from .state import State


@dataclass(frozen=True)
class Cotangents:
    """The cotangent of a per-row argument.

    Attributes:
        vector: its parts.
        values: an expression for each of them.
    """

    vector: State
    values: list[str]


@dataclass(frozen=True)
class AdjointField:
    """The source of a field and its vector-Jacobian product.

    The lines take the field's state from ``s_0``, ..., the time from ``time`` and, going backwards, the cotangent of
    the slope from ``g_0``, ...; sums over rows are over those where ``active`` holds.

    Attributes:
        state: of the solver, and of its cotangents.
        seen: the features of it that the field sees.
        arguments: the parts of the per-row arguments that are read, by number.
        forward: the lines of the slope of ``seen``; slope: an expression for each of its parts.
        backward: the lines of the vector-Jacobian product.
        pulled: the cotangent of ``seen``.
        argument_cotangents: of each argument asked for, by number.
        gradients: what the constants asked for receive.
        shared_time: all rows are at the same time.
    """

    state: State
    seen: State
    arguments: dict[int, State]
    forward: Emitted
    slope: list[str]
    backward: Emitted
    pulled: list[str]
    argument_cotangents: dict[int, Cotangents]
    gradients: Gradients
    shared_time: bool

    @property
    def constants(self) -> list[int]:
        """The numbers of those that are read."""
        return sorted({*self.forward.constants, *self.backward.constants})

    @property
    def parameters(self) -> list[str]:
        """Pointers to the per-row arguments and constants, the last parameters of a kernel."""
        return [*(f"argument_{a}" for a in self.arguments), *(f"constant_{c}" for c in self.constants)]

    def pointers(self, emitted: Emitted) -> list[str]:
        """Lines at the start of a stage: pointers to the constants that its lines read.

        ``nothing`` is zero, which the compiler does not know: else it would compute the address of every element before
        the first step, and keep them all in registers. It is multiplied for the compiler to see that several elements
        may still be read at once.
        """
        return [f"weights_{c} = constant_{c} + nothing * 16" for c in emitted.constants]

    @property
    def before(self) -> list[str]:
        """Lines that need nothing but constants."""
        return [*self.forward.before, *self.backward.before]

    def load_arguments(self) -> list[str]:
        """Lines that read the arguments of a tile's rows."""
        return [
            line
            for a, vector in self.arguments.items()
            for line in vector.load(f"argument_{a}", of_rows(f"argument_{a}", vector.features))
        ]


def adjoint_field_of(
    program: Program,
    constants: Sequence[int],
    arguments: Sequence[int],
    settings: Settings,
    dtype: str,
    shared_time: bool,
) -> AdjointField:
    """The adjoint of a program with one output, whose first features are the derivative of its state.

    Args:
        constants, arguments: those whose gradients are wanted.
        dtype: of the state, as Triton names it.
        shared_time: all rows are at the same time.

    Raises:
        NotFused: tiles cannot hold a value, or do not do what the program needs.
    """
    # cotangents of what depends on time alone stay of each row: they are summed where a constant receives them
    derived = adjoint(program, constants, arguments, shared_time=False)
    whole, *pulled = derived.program.outputs
    b = Builder.of(derived.program)
    # what is beside the state, such as a divergence, moves no stage
    slope = b.gather(_first_features(derived.program, whole))
    full = b.program(whole, slope, *pulled)
    whole, slope, bar, *others = full.outputs
    layout = Layout(full, _ties(full, whole, slope, bar), settings.tile)

    def vector(value: int) -> State:
        return State(tuple(layout.parts(value)), dtype)

    def values(value: int, pieces: Sequence[Piece]) -> list[str]:
        return [piece.beside(part.padded > 0) for part, piece in zip(layout.parts(value), pieces, strict=True)]

    state = vector(whole)
    seen = state.seen(program.state_width)
    read = {op.data[0]: vector(v) for v, op in enumerate(full.ops) if op.name == "argument"}
    inputs = Inputs(
        time=Piece("time", rows=not shared_time),
        state=seen.pieces("s"),
        arguments={a: parts.pieces(f"argument_{a}") for a, parts in read.items()},
        cotangent=state.pieces("g"),
        live="active",
    )
    forward = emit(full, layout, inputs, settings, dtype, "v", [slope], "weights", settle=True)
    backward = emit(full, layout, inputs, settings, dtype, "w", [bar, *others], "weights", settle=True)
    n = len(derived.arguments)
    cotangents = {
        a: Cotangents(vector(v), values(v, pieces))
        for a, v, pieces in zip(derived.arguments, others[:n], backward.outputs[1 : n + 1], strict=True)
    }
    found = [
        list(zip(layout.parts(v), pieces, strict=True))
        for v, pieces in zip(others[n:], backward.outputs[n + 1 :], strict=True)
    ]
    return AdjointField(
        state,
        seen,
        read,
        forward,
        values(slope, forward.outputs[0]),
        backward,
        values(bar, backward.outputs[0]),
        cotangents,
        gradients_of(derived, found, settings, dtype),
        shared_time,
    )


def _first_features(program: Program, value: int) -> list[tuple[int, int]]:
    """The features of ``value`` that are the derivative of the state, by their sources where it gathers them."""
    op, width = program.ops[value], program.state_width
    if op.name == "gather":
        return [(op.inputs[k], i) for k, i in op.data[:width]]
    return [(value, i) for i in range(width)]


def _ties(program: Program, whole: int, slope: int, bar: int) -> list[Tie]:
    """State, slope and their cotangents are cut at the same places."""
    width, features = program.state_width, program.ops[whole].width
    ties = [Tie(whole, 0, v, 0, width) for v in (slope, bar)]
    for v, op in enumerate(program.ops):
        if op.name == "state":
            ties.append(Tie(whole, 0, v, 0, width))
        elif op.name == "cotangent":
            ties.append(Tie(whole, 0, v, 0, features))
    return [tie for tie in ties if tie.value != tie.other]
