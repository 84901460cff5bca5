"""Field programs: a vector field as a short list of operators over rows.

A program computes, for each row of a batch, some vectors of features from the row's time, state and arguments. It is in
static single assignment form: value ``v`` is the result of ``program.ops[v]``. Nothing in it mixes rows.

=============  ========================  ===================================================================
operator       inputs                    value, of ``width`` features
=============  ========================  ===================================================================
time           --                        t of the row (width 1)
state          --                        y of the row
argument       --                        per-row argument number ``data[0]``
vector         --                        constant number ``data[0]``, a vector [width], the same for all rows
literal        --                        the number ``data[0]`` (width 1)
affine         x or (x, b)               ``M x + b``; M is constant number ``data[0]``, [width, n]; if ``data[1]``
                                         the constant is stored as the transpose of M
cotangent      --                        of the output (derived programs only)
rows_sum       x                         sum over all rows (derived programs only); the same for every row
gather         values                    feature ``i`` is feature ``data[i][1]`` of input ``data[i][0]``
sum            x                         sums of consecutive features: x has ``width * m`` of them
lookup         x, number                 the ``number``-th group of ``width`` consecutive features of x, counted from 0
                                         on, or from the end if negative; NaN if there is none
scatter        x, number                 x as that group of the value, whose other features are 0; all are if there is
                                         none (derived programs only)
elementwise    see :mod:`.elementwise`   of the inputs, each of ``width`` features or of one (broadcast)
=============  ========================  ===================================================================

Constants are tensors that do not depend on the row: parameters, or what the field computes from parameters alone. They
are found anew for every solve, by torch (:class:`Constants`), so that an optimiser's step is seen and gradients flow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

LEAVES = ("time", "state", "argument", "vector", "literal", "cotangent")


class Kind(IntEnum):
    """What a value depends on; a result depends on the most that its inputs depend on."""

    CONSTANT = 0
    #: sums over the rows at hand
    SUMMED = 1
    TIME = 2
    ROW = 3


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        name: see the table above.
        inputs: the values it takes.
        width: features of its value.
        data: its numbers.
    """

    name: str
    inputs: tuple[int, ...]
    width: int
    data: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Program:
    """Operators in the order of their execution.

    Attributes:
        ops: operator ``v`` computes value ``v``.
        outputs: the values that are the result.
        state_width: features of the state.
        argument_widths: features of each per-row argument.
    """

    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    state_width: int
    argument_widths: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = []
        for v, op in enumerate(self.ops):
            inputs = ", ".join(f"v{i}" for i in op.inputs)
            data = "" if op.name == "gather" else "".join(f", {d!r}" for d in op.data)
            lines.append(f"v{v} = {op.name}({inputs or ''}{data if inputs else data[2:]})  [{op.width}]")
        return "\n".join([*lines, "return " + ", ".join(f"v{v}" for v in self.outputs)])


@dataclass
class Builder:
    """Collects operators; an operator that is there already is not added again.

    Numbers are folded where the result is exact: ``0 * x``, ``1 * x``, ``x + 0``, a gather of everything in order.
    """

    state_width: int
    argument_widths: tuple[int, ...] = ()
    ops: list[Op] = field(default_factory=list)
    known: dict[Op, int] = field(default_factory=dict)
    kinds: list[Kind] = field(default_factory=list)

    @classmethod
    def of(cls, program: Program) -> Builder:
        """A builder that has the program's operators, under the same numbers."""
        builder = cls(program.state_width, program.argument_widths)
        for op in program.ops:
            builder.add(op.name, op.inputs, op.width, op.data)
        return builder

    def add(self, name: str, inputs: Sequence[int] = (), width: int = 1, data: tuple[Any, ...] = ()) -> int:
        """The value of an operator."""
        op = Op(name, tuple(inputs), width, data)
        found = self.known.get(op)
        if found is None:
            found = self.known[op] = len(self.ops)
            self.ops.append(op)
            self.kinds.append(_kind(op, self.kinds))
        return found

    def width(self, value: int) -> int:
        """Features of a value."""
        return self.ops[value].width

    def time(self) -> int:
        return self.add("time")

    def state(self) -> int:
        return self.add("state", (), self.state_width)

    def argument(self, index: int) -> int:
        return self.add("argument", (), self.argument_widths[index], (index,))

    def vector(self, constant: int, width: int) -> int:
        return self.add("vector", (), width, (constant,))

    def literal(self, number: float) -> int:
        # -0.0 and 0.0 compare equal, and so do 1 and 1.0; NaN does not equal itself
        return self.add("literal", (), 1, (float(number),))

    def affine(self, x: int, constant: int, width: int, bias: int | None = None, transposed: bool = False) -> int:
        """``M x (+ bias)``; the bias has the width of the result, or one feature for all."""
        if bias is None:
            return self.add("affine", (x,), width, (constant, transposed))
        if self.kinds[x] < self.kinds[bias]:  # the product is made once for many rows
            return self.elementwise("add", self.affine(x, constant, width, None, transposed), bias)
        bias = self.gather([(bias, 0)] * width) if self.width(bias) != width else bias
        return self.add("affine", (x, bias), width, (constant, transposed))

    def sum(self, x: int, width: int = 1) -> int:
        """Sums of consecutive groups of features."""
        return x if self.width(x) == width else self.add("sum", (x,), width)

    def lookup(self, x: int, number: int, width: int) -> int:
        """The group of ``width`` features of ``x`` that a whole number names."""
        return self.add("lookup", (x, number), width)

    def scatter(self, x: int, number: int, width: int) -> int:
        """``x`` as that group of ``width`` features, 0 in the others."""
        return self.add("scatter", (x, number), width)

    def gather(self, features: Sequence[tuple[int, int]]) -> int:
        """The value whose features are ``(value, feature)``."""
        first = features[0][0]
        if len(features) == self.width(first) and all(f == (first, i) for i, f in enumerate(features)):
            return first
        inputs = tuple(dict.fromkeys(v for v, _ in features))
        position = {v: i for i, v in enumerate(inputs)}
        return self.add("gather", inputs, len(features), tuple((position[v], i) for v, i in features))

    def elementwise(self, name: str, *inputs: int, data: tuple[Any, ...] = ()) -> int:
        """An elementwise operator of values of one width, or of one feature."""
        width = max(self.width(v) for v in inputs)
        if (simple := self._simplified(name, inputs, width)) is not None:
            return simple
        return self.add(name, inputs, width, data)

    def program(self, *outputs: int) -> Program:
        """What the outputs need, renumbered."""
        return prune(Program(tuple(self.ops), outputs, self.state_width, self.argument_widths))

    def number(self, value: int) -> float | None:
        """The number a value is, if it is a literal."""
        op = self.ops[value]
        return op.data[0] if op.name == "literal" else None

    def _simplified(self, name: str, inputs: tuple[int, ...], width: int) -> int | None:
        if name not in ("add", "sub", "mul", "div", "neg"):
            return None
        numbers = [self.number(v) for v in inputs]
        a, b = numbers[0], numbers[-1]
        if name == "neg":
            return None if a is None else self.literal(-a)
        if a is not None and b is not None and not (name == "div" and b == 0):
            return self.literal({"add": a + b, "sub": a - b, "mul": a * b}[name] if name != "div" else a / b)
        keeps_left = self.width(inputs[0]) == width
        if keeps_left and b == {"add": 0, "sub": 0, "mul": 1, "div": 1}[name]:
            return inputs[0]
        if self.width(inputs[1]) == width and a == {"add": 0, "mul": 1}.get(name, math.nan):
            return inputs[1]
        if name == "sub" and a == 0 and self.width(inputs[1]) == width:
            return self.elementwise("neg", inputs[1])
        return None


def _kind(op: Op, kinds: list[Kind]) -> Kind:
    leaf = {"time": Kind.TIME, "vector": Kind.CONSTANT, "literal": Kind.CONSTANT, "rows_sum": Kind.SUMMED}
    if op.name in leaf:
        return leaf[op.name]
    return max((kinds[i] for i in op.inputs), default=Kind.ROW)


def kinds(program: Program) -> list[Kind]:
    """What each value depends on."""
    result: list[Kind] = []
    for op in program.ops:
        result.append(_kind(op, result))
    return result


def needed_for(program: Program, values: Iterable[int]) -> set[int]:
    """The values that some values are computed from, and those themselves."""
    needed = set(values)
    for v in range(len(program.ops) - 1, -1, -1):
        if v in needed:
            needed.update(program.ops[v].inputs)
    return needed


def prune(program: Program) -> Program:
    """The program without operators that no output needs."""
    kept = sorted(needed_for(program, program.outputs))
    position = {v: i for i, v in enumerate(kept)}
    ops = tuple(
        Op(op.name, tuple(position[i] for i in op.inputs), op.width, op.data) for op in (program.ops[v] for v in kept)
    )
    outputs = tuple(position[v] for v in program.outputs)
    return Program(ops, outputs, program.state_width, program.argument_widths)
