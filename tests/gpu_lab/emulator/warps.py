"""Exchange within a warp: PTX ISA, ``shfl``, ``vote``, ``redux``, ``match`` not among them.

All living lanes of a warp arrive together, which :mod:`.control` sees to; lanes that left the kernel keep their values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .integers import Builder
from .machine import WARP, Array, Machine, Operation, assign, dtype_of, members
from .memory import Where
from .program import Instruction


def _source_lane(mode: str, lane: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """The lane to read from, and whether it is one of the segment that ``c`` describes (otherwise: the lane itself)."""
    lane, b, c = (x.astype(np.int64) for x in (lane, b & np.uint32(31), c))
    segment, clamp = c >> 8 & 31, c & 31
    first = lane & segment
    last = first | (clamp & ~segment)
    if mode == "up":
        wanted = lane - b
        return wanted, wanted >= last
    wanted = {"down": lane + b, "bfly": lane ^ b, "idx": first | (b & ~segment)}[mode]
    return wanted, wanted <= last


def shuffle(instruction: Instruction, machine: Machine) -> Operation:
    """``shfl.sync``: the value of another lane of the warp."""
    mode = instruction.modifiers[1]
    outs = members(instruction.operands[0])
    value = machine.target(outs[0], "b32")
    valid = machine.target(outs[1], "pred") if len(outs) == 2 else None
    a, b, c = (machine.source(o, "u32") for o in instruction.operands[1:4])
    lane = machine.lane
    begin = np.arange(machine.threads) - lane

    def operation(where: Where) -> None:
        wanted, inside = _source_lane(mode, lane, b, c)
        source = begin + np.where(inside, wanted, lane)
        assign(value, np.broadcast_to(a, machine.threads)[source], where)
        if valid is not None:
            assign(valid, inside, where)

    return operation


def _participating(machine: Machine, where: Where) -> Array:
    """``[warps, 32]``: the lanes that execute."""
    return np.broadcast_to(np.asarray(where), machine.threads).reshape(-1, WARP)


_REDUCTIONS: dict[str, tuple[np.ufunc, Callable[[np.dtype[Any]], int]]] = {
    "add": (np.add, lambda dtype: 0),
    "min": (np.minimum, lambda dtype: int(np.iinfo(dtype).max)),
    "max": (np.maximum, lambda dtype: int(np.iinfo(dtype).min)),
    "and": (np.bitwise_and, lambda dtype: -1 if dtype.kind == "i" else int(np.iinfo(dtype).max)),
    "or": (np.bitwise_or, lambda dtype: 0),
    "xor": (np.bitwise_xor, lambda dtype: 0),
}


def reduce(instruction: Instruction, machine: Machine) -> Operation:
    """``redux.sync``: one sum, extremum or bitwise result over the lanes of the warp, for all of them."""
    function, neutral_of = _REDUCTIONS[instruction.modifiers[1]]
    out = machine.target(instruction.operands[0], instruction.type)
    a = machine.source(instruction.operands[1], instruction.type)
    neutral = dtype_of(instruction.type).type(neutral_of(dtype_of(instruction.type)))

    def operation(where: Where) -> None:
        lanes = np.broadcast_to(a, machine.threads).reshape(-1, WARP)
        result = function.reduce(np.where(_participating(machine, where), lanes, neutral), axis=1, dtype=a.dtype)
        assign(out, np.repeat(result, WARP), where)

    return operation


def vote(instruction: Instruction, machine: Machine) -> Operation:
    """``vote.sync``: whether a predicate holds in all lanes, in any, in all or none; or the lanes where it does."""
    mode = instruction.modifiers[1]
    out = machine.target(instruction.operands[0], "b32" if mode == "ballot" else "pred")
    holds = machine.predicate(instruction.operands[1])
    bit = np.uint32(1) << np.arange(WARP, dtype=np.uint32)

    def operation(where: Where) -> None:
        take = _participating(machine, where)
        yes = np.broadcast_to(holds, machine.threads).reshape(-1, WARP) & take
        any_, all_ = yes.any(1), (yes == take).all(1)
        results = {"any": any_, "all": all_, "uni": all_ | ~any_, "ballot": (yes * bit).sum(1, dtype=np.uint32)}
        assign(out, np.repeat(results[mode], WARP), where)

    return operation


def meet(instruction: Instruction, machine: Machine) -> Operation:
    """``bar.warp.sync``: the lanes have met when it executes. In a block of one warp it is a barrier of the block."""
    if machine.threads == WARP:
        return lambda where: machine.barrier()
    return lambda where: None


OPERATIONS: dict[str, Builder] = {"shfl": shuffle, "redux": reduce, "vote": vote, "bar": meet}
