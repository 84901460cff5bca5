"""Arithmetic and comparisons of two narrow floats in one register of 32 bits (``f16x2``, ``bf16x2``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from .floating import OPERATIONS as OF_FLOATS
from .machine import Array, Machine, Operation, dtype_of, members
from .memory import Where
from .moves import compare
from .program import Group, Instruction, Operand

_KNOWN = ("add", "sub", "mul", "fma", "min", "max", "neg", "abs", "ex2", "tanh")


class _Half:
    """A machine whose registers of 32 bits are only their lower (0) or upper (1) halves."""

    def __init__(self, machine: Machine, half: int) -> None:
        self._machine, self._half, self.threads = machine, half, machine.threads

    def source(self, operand: Operand, type_: str) -> Array:
        return self._of(self._machine.source, operand, type_)

    def target(self, operand: Operand, type_: str) -> Array:
        return self._of(self._machine.target, operand, type_)

    def _of(self, view: Callable[[Operand, str], Array], operand: Operand, type_: str) -> Array:
        if type_ == "pred":
            return view(operand, type_)
        return view(operand, "b32").view(dtype_of(type_))[self._half :: 2]


def build_pair(instruction: Instruction, machine: Machine) -> Operation:
    """Two operations, one on each half; a comparison of pairs writes one predicate for each half."""
    single = replace(instruction, modifiers=(*instruction.modifiers[:-1], instruction.type.removesuffix("x2")))
    halves = [cast(Machine, _Half(machine, k)) for k in range(2)]
    if instruction.opcode == "setp":
        first = instruction.operands[0]
        if not isinstance(first, Group):
            raise NotImplementedError(str(instruction))
        parts = [replace(single, operands=(p, *instruction.operands[1:])) for p in members(first)]
        operations = [compare(part, half) for part, half in zip(parts, halves, strict=True)]
    elif instruction.opcode in _KNOWN:
        operations = [OF_FLOATS[instruction.opcode](single, half) for half in halves]
    else:
        raise NotImplementedError(str(instruction))

    def operation(where: Where) -> None:
        for part in operations:
            part(where)

    return operation
