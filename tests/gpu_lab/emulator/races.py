"""Finds accesses to global memory whose order nothing decides, which an emulator that has an order would hide.

Two threads of a block race where one writes and the other reads or writes the same byte with no barrier in between; two
blocks do so wherever in a launch it happens. Storing what is there already is no race. Atomic operations are left out,
so that a kernel whose blocks wait for one another by atomics must be run without this check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fault import EmulationFault
from .memory import APART, Addresses, GlobalMemory, Where
from .program import Instruction

_SEVERAL = -2


@dataclass
class _Shadow:
    """For every byte of a storage: when it was last written and read, by which thread (of several: -2), and whether an
    earlier block than that of the last read has read it as well."""

    written: NDArray[np.int64]
    writer: NDArray[np.int32]
    read: NDArray[np.int64]
    reader: NDArray[np.int32]
    read_before: NDArray[np.bool_]


class Races:
    """Watches the loads and stores of one launch.

    Time counts barriers and begins of blocks, from 1; 0 stands for the time before the launch.
    """

    def __init__(self, memory: GlobalMemory, threads: int) -> None:
        self._memory = memory
        self._thread = np.arange(threads, dtype=np.int32)
        self._shadows: dict[int, _Shadow] = {}
        self._now = self._block_began = 0

    def start_block(self) -> None:
        self._now += 1
        self._block_began = self._now

    def barrier(self) -> None:
        self._now += 1

    def load(self, addresses: Addresses, where: Where, size: int, instruction: Instruction) -> None:
        """Notes that lanes read ``size`` bytes each.

        Raises:
            EmulationFault: Another thread wrote some of them, and nothing says that it did so before.
        """
        for shadow, at, thread in self._parts(addresses, where, size):
            self._check(shadow.written[at], shadow.writer[at], thread, "reads what", "wrote", instruction)
            shadow.read_before[at] |= (shadow.read[at] > 0) & (shadow.read[at] < self._block_began)
            again = shadow.read[at] == self._now
            shadow.reader[at] = np.where(again & (shadow.reader[at] != thread), _SEVERAL, thread)
            shadow.read[at] = self._now
            # threads that read the same byte at once: the last of them was noted, the others are several
            shadow.reader[at] = np.where(shadow.reader[at] == thread, thread, _SEVERAL)

    def store(self, addresses: Addresses, where: Where, size: int, changed: Where, instruction: Instruction) -> None:
        """Notes that lanes write ``size`` bytes each; only those that are ``changed`` by it can race.

        Raises:
            EmulationFault: Another thread read or wrote some of them, and nothing says which comes first.
        """
        for shadow, at, thread in self._parts(addresses, np.logical_and(where, changed), size):
            self._check(shadow.written[at], shadow.writer[at], thread, "writes what", "wrote", instruction)
            # a time that lies before the block's begin stands for reads of earlier blocks
            read = np.where(shadow.read_before[at], 1, shadow.read[at])
            self._check(read, shadow.reader[at], thread, "writes what", "reads", instruction)
            shadow.written[at] = self._now
            shadow.writer[at] = thread

    def _parts(
        self, addresses: Addresses, where: Where, size: int
    ) -> list[tuple[_Shadow, NDArray[np.intp], NDArray[np.int32]]]:
        """For each storage: its shadow, the bytes that are accessed in it, and by which thread."""
        every = np.broadcast_to(np.asarray(where), self._thread.size)
        active, thread = addresses[every], self._thread[every]
        storage = active // np.uint64(APART)
        parts = []
        for number in np.unique(storage):
            lanes = storage == number
            begin = (active[lanes] % np.uint64(APART)).astype(np.intp)
            at = (begin[:, None] + np.arange(size)).reshape(-1)
            parts.append((self._shadow(int(number)), at, np.repeat(thread[lanes], size)))
        return parts

    def _shadow(self, number: int) -> _Shadow:
        if number not in self._shadows:
            ends = [r.base + r.content.size for r in self._memory.regions if r.base // APART == number]
            size = max(ends) % APART
            zeros, nobody = np.zeros(size, np.int64), np.full(size, -1, np.int32)
            self._shadows[number] = _Shadow(zeros, nobody, zeros.copy(), nobody.copy(), zeros > 0)
        return self._shadows[number]

    def _check(
        self,
        when: NDArray[np.int64],
        who: NDArray[np.int32],
        thread: NDArray[np.int32],
        does: str,
        did: str,
        instruction: Instruction,
    ) -> None:
        of_another_block = (when > 0) & (when < self._block_began)
        if of_another_block.any():
            raise EmulationFault(f"a race: a block {does} another block {did}, {instruction}")
        unordered = (when == self._now) & (who != thread)
        if unordered.any():
            one, other = int(thread[unordered][0]), int(who[unordered][0])
            named = "several threads" if other == _SEVERAL else f"thread {other}"
            raise EmulationFault(f"a race: thread {one} {does} {named} {did}, no barrier between them, {instruction}")
