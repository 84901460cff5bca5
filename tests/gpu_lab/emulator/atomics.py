"""Atomic operations: PTX ISA, ``atom`` and ``red``. Lanes come one after another, in ascending order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .integers import Builder
from .machine import Array, Machine, Operation, dtype_of
from .memory import Memory, Where
from .program import Instruction
from .rounding import bfloat16_bits, bfloat16_value

Change = Callable[[Array, list[Array]], Array]


def _add_bfloat16(old: Array, new: Array) -> Array:
    return bfloat16_bits(bfloat16_value(old).astype(np.float64) + bfloat16_value(new))


def _increment(old: Array, limit: Array) -> Array:
    return np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1))


def _decrement(old: Array, limit: Array) -> Array:
    return np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))


CHANGES: dict[str, Change] = {
    "add": lambda old, new: old + new[0],
    "min": lambda old, new: np.minimum(old, new[0]),
    "max": lambda old, new: np.maximum(old, new[0]),
    "and": lambda old, new: old & new[0],
    "or": lambda old, new: old | new[0],
    "xor": lambda old, new: old ^ new[0],
    "inc": lambda old, new: _increment(old, new[0]),
    "dec": lambda old, new: _decrement(old, new[0]),
    "exch": lambda old, new: new[0],
    "cas": lambda old, new: np.where(old == new[0], new[1], old),
}
"""What each operation leaves in memory, of what was there and of the operands."""


def atomic(instruction: Instruction, machine: Machine) -> Operation:
    """``atom`` returns what was in memory before; ``red`` returns nothing."""
    name = next(m for m in instruction.modifiers if m in CHANGES)
    change = CHANGES[name]
    if instruction.type == "bf16" and name == "add":
        change = lambda old, new: _add_bfloat16(old, new[0])  # noqa: E731
    returns = instruction.opcode == "atom"
    if any(m in ("v2", "v4", "v8") for m in instruction.modifiers):
        raise NotImplementedError(str(instruction))
    out = machine.target(instruction.operands[0], instruction.type) if returns else None
    address, *operands = instruction.operands[1:] if returns else instruction.operands
    compute, memory = machine.addresses(address), machine.memory(instruction)
    operand_count = 2 if name == "cas" else 1
    sources = [machine.source(o, instruction.type) for o in operands[:operand_count]]
    values = [np.broadcast_to(a, machine.threads) for a in sources]

    def operation(where: Where) -> None:
        lanes = np.flatnonzero(np.broadcast_to(np.asarray(where), machine.threads))
        addresses = compute()
        for group in _without_repetition(addresses, lanes):
            old = _exchange(memory, addresses[group], [a[group] for a in values], change, instruction)
            if out is not None:
                out[group] = old

    return operation


def _without_repetition(addresses: Array, lanes: Array) -> list[Array]:
    """The lanes in groups where no address occurs twice; the lanes of one address stay in their order."""
    groups, left = [], lanes
    while left.size:
        _, first = np.unique(addresses[left], return_index=True)
        groups.append(left[np.sort(first)])
        left = np.delete(left, first)
    return groups


def _exchange(
    memory: Memory, addresses: Array, operands: list[Array], change: Change, instruction: Instruction
) -> Array:
    (old,) = memory.load(addresses, True, dtype_of(instruction.type), 1, instruction)
    memory.store(addresses, True, [change(old, operands).astype(old.dtype)], instruction)
    return old


OPERATIONS: dict[str, Builder] = {"atom": atomic, "red": atomic}
