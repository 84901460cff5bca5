"""Copies from global to shared memory in the background: PTX ISA, ``cp.async`` and its groups.

A copy arrives as late as it may: when the kernel waits for its group. A kernel that reads before it waits finds the NaN
that shared memory started with, or what was there before.
"""

from __future__ import annotations

import numpy as np

from .copies import Copies
from .integers import Builder
from .machine import Array, Machine, Operation, members
from .memory import Where
from .program import Immediate, Instruction


def _copy(instruction: Instruction, machine: Machine, copies: Copies) -> Operation:
    """``cp.async.cg.shared.global [to], [from], bytes, used;``: bytes beyond ``used`` become zeros."""
    to, of = (machine.addresses(o) for o in instruction.operands[:2])
    size = instruction.operands[2]
    if not isinstance(size, Immediate):
        raise NotImplementedError(str(instruction))
    extra = [o for o in instruction.operands[3:] if members(o)]
    hinted = "L2::cache_hint" in instruction.modifiers
    used = machine.source(extra[0], "u32") if len(extra) > hinted else np.array([size.value], np.uint32)
    words = size.value // 4

    def operation(where: Where) -> None:
        to_now, of_now = (
            np.array(machine_addresses()[... if where is True else where]) for machine_addresses in (to, of)
        )
        used_now = np.broadcast_to(used, machine.threads)[... if where is True else where].copy()

        def arrive() -> None:
            _transfer(machine, instruction, to_now, of_now, used_now, words)

        copies.open.append(arrive)

    return operation


def _transfer(machine: Machine, instruction: Instruction, to: Array, of: Array, used: Array, words: int) -> None:
    """Only bytes that are used are read, so that an address whose copy is masked may be anything."""
    if (used % 4).any():
        raise NotImplementedError(f"a part of a word, {instruction}")
    word = np.dtype(np.uint32)
    values = [np.zeros(to.size, word) for _ in range(words)]
    whole = used == 4 * words
    if whole.any():
        loaded = machine.global_.load(of[whole], True, word, words, instruction)
        for value, got in zip(values, loaded, strict=True):
            value[whole] = got
    for k, value in enumerate(values):
        partly = ~whole & (used > 4 * k)
        if partly.any():
            address = of[partly] + np.uint64(4 * k)
            (value[partly],) = machine.global_.load(address, True, word, 1, instruction)
    machine.shared.store(to, True, values, instruction)


def asynchronous_copy(instruction: Instruction, machine: Machine) -> Operation:
    copies = machine.copies
    kind = instruction.modifiers[1]
    if kind in ("cg", "ca"):
        return _copy(instruction, machine, copies)
    if kind == "commit_group":

        def commit(where: Where) -> None:
            _all_lanes(where, instruction)
            copies.commit()

        return commit
    if kind == "wait_all":

        def wait_all(where: Where) -> None:
            _all_lanes(where, instruction)
            copies.commit()
            copies.arrive(0)

        return wait_all
    if kind == "wait_group" and isinstance(instruction.operands[0], Immediate):
        but = instruction.operands[0].value

        def wait(where: Where) -> None:
            _all_lanes(where, instruction)
            copies.arrive(but)

        return wait
    raise NotImplementedError(str(instruction))


def _all_lanes(where: Where, instruction: Instruction) -> None:
    """Groups belong to threads; here the block has one list of them."""
    if where is not True and not np.all(where):
        raise NotImplementedError(f"some threads of a block only, {instruction}")


OPERATIONS: dict[str, Builder] = {"cp": asynchronous_copy}
