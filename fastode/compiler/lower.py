"""From a field program to what the native engine runs: where every value lives, and when it is computed.

Values of rows live in lanes, one a sample; what is the same for all rows lives once. What depends on constants alone is
computed once a solve. For a gradient, the values that the adjoint needs are kept for each stage of a step, and what
only the adjoint needs is computed with it. Memory is used again as soon as its value is dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .derive import Adjoint
from .program import Kind, Op, Program, kinds

LANES, SHARED, ADJOINT, ADJOINT_SHARED, CONSTANT, ARGUMENT = range(6)
#: leaves that the solver puts in place
GIVEN = ("time", "state", "argument", "cotangent")
_HAS_LANES = (LANES, ADJOINT, ARGUMENT)
#: columns from which a product costs more to make again than to keep for a gradient: csrc/field/products.h.
#: With products kept, a training step of d-h-h-d (batch 1000 to 16384, one and two threads) takes 1.04 to 1.18 times as
#: long for h = 64, a twelfth less for 96, an eighth less for 128 and 256, a fifth less for 860.
WORTH_KEEPING = 96

#: (area, slot, first feature, width)
Place = tuple[int, int, int, int]


@dataclass
class _Slots:
    """The slots of one area, used again where they are free and wide enough."""

    widths: list[int] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    def take(self, width: int) -> int:
        fitting = [s for s in self.free if self.widths[s] >= width]
        if fitting:
            slot = min(fitting, key=lambda s: self.widths[s])
            self.free.remove(slot)
            return slot
        self.widths.append(width)
        return len(self.widths) - 1


def lower(program: Program | Adjoint, constants: Sequence[tuple[int, ...]], shared_time: bool) -> dict[str, Any]:
    """What ``_native.FieldProgram`` is made of.

    Args:
        program: a program with one output, or one with its vector-Jacobian product.
        constants: shape of each.
        shared_time: all rows are at the same time.
    """
    return _Lowering(program, constants, shared_time).result()


class _Lowering:
    def __init__(self, program: Program | Adjoint, constants: Sequence[tuple[int, ...]], shared_time: bool) -> None:
        self.adjoint = program if isinstance(program, Adjoint) else None
        self.program = program.program if isinstance(program, Adjoint) else program
        self.constants = constants
        self.shared_time = shared_time
        self.ops: list[Op] = list(self.program.ops)
        self.kinds = kinds(self.program)
        outputs = list(self.program.outputs)
        arguments = self.adjoint.arguments if self.adjoint else ()
        # what the solver reads for each row has lanes, whatever it depends on
        for i in range(1 + (1 + len(arguments) if self.adjoint else 0)):
            outputs[i] = self._in_lanes(outputs[i])
        self.outputs = outputs
        self.after_cotangent = self._descendants("cotangent")
        self.needed_first = self._ancestors(outputs[:1])
        self.places: dict[int, Place] = {}
        self.slots = [_Slots() for _ in range(6)]
        self.matrices: dict[tuple[int, int, int, bool], int] = {}
        self.products: dict[int, int] = {}

    def _in_lanes(self, v: int) -> int:
        if self.kinds[v] == Kind.ROW:
            return v
        width = self.ops[v].width
        self.ops.append(Op("gather", (v,), width, tuple((0, i) for i in range(width))))
        self.kinds.append(Kind.ROW)
        return len(self.ops) - 1

    def _descendants(self, leaf: str) -> set[int]:
        found: set[int] = set()
        for v, op in enumerate(self.ops):
            if op.name == leaf or any(i in found for i in op.inputs):
                found.add(v)
        return found

    def _ancestors(self, values: Iterable[int]) -> set[int]:
        found = set(values)
        for v in range(len(self.ops) - 1, -1, -1):
            if v in found:
                found.update(self.ops[v].inputs)
        return found

    def _area(self, v: int) -> int:
        if self.ops[v].name == "argument":
            return ARGUMENT
        kind = self.kinds[v]
        if kind == Kind.CONSTANT:
            return CONSTANT
        first = v in self.needed_first and v not in self.after_cotangent
        if kind == Kind.SUMMED or (kind == Kind.TIME and self.shared_time):
            return SHARED if first else ADJOINT_SHARED
        return LANES if first else ADJOINT

    def result(self) -> dict[str, Any]:
        phases: dict[str, list[int]] = {"once": [], "value": [], "adjoint": []}
        # what the solver puts in place comes first, lest its place is used for something else before it is read
        for v in sorted(range(len(self.ops)), key=lambda v: self.ops[v].name not in GIVEN):
            area = self._area(v)
            first = area in (LANES, SHARED, ARGUMENT)
            phases["once" if area == CONSTANT else "value" if first else "adjoint"].append(v)
        kept = set(self.outputs)
        if self.adjoint:
            for v in phases["adjoint"]:
                kept.update(i for i in self.ops[v].inputs if self._area(i) in (LANES, SHARED))
        self._mark_products(phases["value"])
        instructions = {name: self._allocate(values, kept) for name, values in phases.items()}
        return {
            **instructions,
            "kept": sum(self.ops[v].width for v in self.products),
            "slots": [s.widths for s in self.slots],
            "matrices": list(self.matrices),
            "constants": [_count(shape) for shape in self.constants],
            "arguments": [self._argument(i, width) for i, width in enumerate(self.program.argument_widths)],
            "time": self._leaf("time"),
            "state": self._leaf("state"),
            "cotangent": self._leaf("cotangent"),
            "out": self.places[self.outputs[0]],
            **self._gradients(),
        }

    def _mark_products(self, values: Iterable[int]) -> None:
        """Finds the products that are worth keeping, in the same order with an adjoint as without."""
        first = 0
        for v in values:
            op = self.ops[v]
            if op.name == "affine" and self._area(v) == LANES and self.ops[op.inputs[0]].width >= WORTH_KEEPING:
                self.products[v] = first
                first += op.width

    def _gradients(self) -> dict[str, Any]:
        if self.adjoint is None:
            return {
                "matrix_gradients": [],
                "vector_gradients": [],
                "differentiated": [],
                "argument_cotangents": [],
                "state_cotangent": None,
                "time_cotangent": None,
            }
        places = [self.places[v] for v in self.outputs[1:]]
        arguments = len(self.adjoint.arguments)
        of_time = places[1 + arguments] if self.adjoint.time else None
        at = 1 + arguments + int(self.adjoint.time)
        matrices = []
        for constant, transposed in self.adjoint.matrices:
            matrices.append((constant, transposed, places[at], places[at + 1]))
            at += 2
        return {
            "state_cotangent": places[0],
            "time_cotangent": of_time,
            "argument_cotangents": places[1 : 1 + arguments],
            "differentiated": list(self.adjoint.arguments),
            "matrix_gradients": matrices,
            "vector_gradients": list(zip(self.adjoint.vectors, places[at:], strict=True)),
        }

    def _leaf(self, name: str) -> Place | None:
        return next((self.places[v] for v, op in enumerate(self.ops) if op.name == name), None)

    def _argument(self, index: int, width: int) -> Place:
        """Where the solver puts an argument; one that nothing reads has a place all the same."""
        for v, op in enumerate(self.ops):
            if op.name == "argument" and op.data[0] == index:
                return self.places[v]
        return (ARGUMENT, self.slots[ARGUMENT].take(width), 0, width)

    def _allocate(self, values: list[int], kept: set[int]) -> list[tuple[Any, ...]]:
        """Places for ``values``, computed in this order; those in ``kept`` outlive the others."""
        root: dict[int, int] = {}
        for v in values:
            if (alias := self._alias(v)) is not None:
                root[v] = root.get(alias[0], alias[0])
        uses = {v: 0 for v in values}
        inside = set(values)
        for v in values:
            for i in self.ops[v].inputs:
                r = root.get(i, i)
                if r in inside and v not in root:
                    uses[r] += 1
        forever = {root.get(v, v) for v in kept}
        instructions = []
        for v in values:
            op = self.ops[v]
            if v in root:
                source, first = self._alias(v) or (0, 0)
                area, slot, offset, _ = self.places[source]
                self.places[v] = (area, slot, offset + first, op.width)
                continue
            area = self._area(v)
            self.places[v] = (area, self.slots[area].take(op.width), 0, op.width)
            if op.name not in GIVEN:
                instructions.append(self._instruction(v))
            for i in set(root.get(i, i) for i in op.inputs):
                if i in inside:
                    uses[i] -= sum(1 for j in op.inputs if root.get(j, j) == i)
            for i in {root.get(i, i) for i in op.inputs}:
                if i in inside and uses[i] == 0 and i not in forever and self._area(i) in (LANES, ADJOINT):
                    self.slots[self._area(i)].free.append(self.places[i][1])
        return instructions

    def _alias(self, v: int) -> tuple[int, int] | None:
        """``(value, first feature)`` if ``v`` is a part of another value where that lives."""
        op = self.ops[v]
        if op.name != "gather" or len(op.inputs) != 1:
            return None
        first = op.data[0][1]
        whole = all(f == (0, first + i) for i, f in enumerate(op.data))
        same = (self._area(v) in _HAS_LANES) == (self._area(op.inputs[0]) in _HAS_LANES)
        return (op.inputs[0], first) if whole and same else None

    def _instruction(self, v: int) -> tuple[Any, ...]:
        op = self.ops[v]
        number, matrix, runs = 0.0, -1, []
        if op.name == "affine":
            key = (op.data[0], op.width, self.ops[op.inputs[0]].width, op.data[1])
            matrix = self.matrices.setdefault(key, len(self.matrices))
        elif op.name == "vector":
            matrix = op.data[0]
        elif op.name == "gather":
            runs = _runs(op.data)
        elif op.name in ("sigmoid", "softplus"):
            number = op.data[0] if op.data else float("inf")
        elif op.data:
            number = op.data[0]
        inputs = [self.places[i] for i in op.inputs]
        return (op.name, self.places[v], inputs, number, matrix, runs, self.products.get(v, -1))


def _runs(features: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Features as (input, first, count, step): neighbours, or one feature several times."""
    runs: list[list[int]] = []
    for k, f in features:
        if runs:
            last = runs[-1]
            source, first, count, step = last
            if source == k and count == 1 and f in (first, first + 1):
                last[2], last[3] = 2, f - first
                continue
            if source == k and count > 1 and f == first + step * count:
                last[2] += 1
                continue
        runs.append([k, f, 1, 1])
    return [(r[0], r[1], r[2], r[3]) for r in runs]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count
