"""From an instruction to what executes it: the tables of all families, by opcode and by the type of the operands."""

from __future__ import annotations

import numpy as np

from . import asynchronous, atomics, bits, conversions, floating, integers, matrices, moves, warps
from .integers import Builder, add_with_carry
from .machine import Machine, Operation
from .memory import Where
from .pairs import build_pair
from .program import Instruction

_ANY_TYPE: dict[str, Builder] = {
    "cvt": conversions.convert,
    **moves.OPERATIONS,
    **warps.OPERATIONS,
    **matrices.OPERATIONS,
    **atomics.OPERATIONS,
    **asynchronous.OPERATIONS,
}

_OF_INTEGERS = integers.OPERATIONS | bits.OPERATIONS
_OF_WARPS = frozenset(("shfl", "redux", "vote", "mma", "ldmatrix", "stmatrix"))


def meets_warp(instruction: Instruction) -> bool:
    """Whether the lanes of a warp meet at the instruction."""
    return instruction.opcode in _OF_WARPS or "warp" in instruction.modifiers


def build(instruction: Instruction, machine: Machine) -> Operation:
    """The operation that executes ``instruction``; lanes where its guard does not hold are left out.

    Raises:
        NotImplementedError: The emulator does not know the instruction; the message has its line.
    """
    try:
        operation = _builder(instruction)(instruction, machine)
    except (NotImplementedError, KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise NotImplementedError(f"an instruction that the emulator does not know, {instruction} ({error})") from error
    if instruction.guard is None:
        return operation
    register, negated = instruction.guard
    return _guarded(operation, machine.predicate(register), negated)


def _builder(instruction: Instruction) -> Builder:
    opcode, type_ = instruction.opcode, instruction.type
    if type_ in ("f16x2", "bf16x2") and opcode not in ("atom", "red"):
        return build_pair
    if opcode in _ANY_TYPE:
        return _ANY_TYPE[opcode]
    if "cc" in instruction.modifiers and opcode in ("add", "sub"):
        return add_with_carry
    of_floats = type_ in ("f16", "bf16", "f32", "f64")
    return (floating.OPERATIONS if of_floats else _OF_INTEGERS)[opcode]


def _guarded(operation: Operation, predicate: np.ndarray, negated: bool) -> Operation:
    def only_where(where: Where) -> None:
        lanes = ~predicate if negated else predicate
        if where is not True:
            lanes = lanes & where
        count = np.count_nonzero(lanes)
        if count == lanes.size:
            operation(True)
        elif count:
            # the operation may change its own predicate
            operation(lanes.copy() if lanes is predicate else lanes)

    return only_where
