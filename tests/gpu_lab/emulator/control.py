"""Control flow of a block: one position for all threads while they agree, one for each while they do not.

Threads that disagree execute the earliest position first, which brings those in the branches of a condition together
again behind it. A barrier opens when every living thread waits at it. Instructions of a warp wait for its living lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fault import EmulationFault
from .instructions import build, meets_warp
from .machine import WARP, Machine, Operation
from .program import Immediate, Instruction, Symbol

_ENDS = ("bra", "ret", "exit", "bar", "barrier", "trap", "brkpt")


@dataclass(frozen=True)
class Segment:
    """Instructions that execute one after another, and how control goes on behind them.

    Attributes:
        instructions: what ``operations`` execute, one for one.
        end: a branch, a barrier or an exit; None: the next segment follows.
        target: the segment that a branch leads to.
        meets: the only operation is one at which a warp meets.
    """

    instructions: list[Instruction]
    operations: list[Operation]
    end: Instruction | None
    target: int
    meets: bool


def segments(machine: Machine) -> list[Segment]:
    """The kernel in segments: they begin at labels and behind jumps, and warp instructions are alone in theirs."""
    code, labels = machine.code.code, machine.code.labels
    begins = {0, *labels.values()}
    for i, instruction in enumerate(code):
        if _ends(instruction):
            begins.add(i + 1)
        elif meets_warp(instruction):
            begins |= {i, i + 1}
    ordered = sorted(b for b in begins if b < len(code))
    number = {begin: k for k, begin in enumerate(ordered)} | {len(code): len(ordered)}
    result = []
    for begin, after in zip(ordered, [*ordered[1:], len(code)], strict=True):
        part = code[begin:after]
        end = part.pop() if _ends(part[-1]) else None
        target = number[labels[_label(end, labels)]] if end is not None and end.opcode == "bra" else -1
        if end is not None and end.opcode in ("bar", "barrier"):
            _check_barrier(end)
        meets = bool(part) and meets_warp(part[0])
        result.append(Segment(part, [build(i, machine) for i in part], end, target, meets))
    return result


def _ends(instruction: Instruction) -> bool:
    return instruction.opcode in _ENDS and "warp" not in instruction.modifiers


def _check_barrier(instruction: Instruction) -> None:
    """Only the barrier of the whole block is known: number 0, all threads.

    Raises:
        NotImplementedError: It is another one.
    """
    named = [o.value for o in instruction.operands if isinstance(o, Immediate)]
    whole = set(instruction.modifiers) <= {"sync", "aligned", "cta"} and named == [0] and len(instruction.operands) == 1
    if not whole or instruction.guard is not None:
        raise NotImplementedError(f"a barrier that the emulator does not know, {instruction}")


def _label(branch: Instruction, labels: dict[str, int]) -> str:
    (operand,) = branch.operands
    if not isinstance(operand, Symbol) or operand.name not in labels:
        raise NotImplementedError(f"a branch that the emulator does not know, {branch}")
    return operand.name


class Block:
    """Executes the segments of a kernel for one block of the grid after another.

    Attributes:
        executed: the number of instructions so far, each counted once for all the threads that execute it together.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.segments = segments(machine)
        self.executed = 0
        self._every = np.ones(machine.threads, bool)

    def run(self, most_instructions: int) -> None:
        """Executes the block that the machine was started for.

        Raises:
            EmulationFault: A fault in the kernel, or ``most_instructions`` were executed and it did not end.
        """
        limit = self.executed + most_instructions
        position = 0
        while position < len(self.segments):
            segment = self.segments[position]
            for operation in segment.operations:
                operation(True)
            self._count(segment, limit)
            position += 1
            end = segment.end
            if end is None:
                continue
            if end.opcode in ("bar", "barrier"):
                self.machine.barrier()
                continue
            lanes = self._lanes(end)
            count = np.count_nonzero(lanes)
            if count and end.opcode in ("trap", "brkpt"):
                raise EmulationFault(f"the kernel stops itself, {end}")
            to = segment.target if end.opcode == "bra" else len(self.segments)
            if count == lanes.size:
                position = to
            elif count:
                position = self._run_divided(np.where(lanes, to, position), limit)

    def _count(self, segment: Segment, limit: int) -> None:
        self.executed += len(segment.operations) + (segment.end is not None)
        if self.executed > limit:
            raise EmulationFault(f"the kernel does not end; it is at {segment.end or segment.instructions[0]}")

    def _lanes(self, end: Instruction) -> NDArray[np.bool_]:
        if end.guard is None:
            return self._every
        register, negated = end.guard
        predicate = self.machine.predicate(register)
        return ~predicate if negated else predicate

    def _run_divided(self, at: NDArray[np.intp], limit: int) -> int:
        """Executes with one position ``at`` for each thread, until they are all at the one that is returned."""
        waits = np.zeros(at.size, bool)
        parked = np.zeros(at.size, bool)
        outside = len(self.segments)
        while True:
            runs = (at < outside) & ~waits & ~parked
            if not runs.any():
                if (at == outside).all():
                    return outside
                self._open_barrier(at, waits, parked)
                continue
            position = int(at[runs].min())
            here = runs & (at == position)
            if here.all():
                return position
            segment = self.segments[position]
            if segment.meets:
                here = self._meeting(at, position, here, waits, parked)
                if not here.any():
                    continue
            for operation in segment.operations:
                operation(here)
            self._count(segment, limit)
            self._go_on(segment, position, here, at, waits)

    def _go_on(
        self, segment: Segment, position: int, here: NDArray[np.bool_], at: NDArray[np.intp], waits: NDArray[np.bool_]
    ) -> None:
        """Moves the threads that are ``here`` from ``position``."""
        end = segment.end
        if end is None:
            at[here] = position + 1
            return
        lanes = here & self._lanes(end)
        if end.opcode in ("bar", "barrier"):
            # they stay at the barrier, so that all of them can be seen to wait at the same one
            waits |= here
            return
        if lanes.any() and end.opcode in ("trap", "brkpt"):
            raise EmulationFault(f"the kernel stops itself, {end}")
        at[here] = position + 1
        at[lanes] = segment.target if end.opcode == "bra" else len(self.segments)

    def _open_barrier(self, at: NDArray[np.intp], waits: NDArray[np.bool_], parked: NDArray[np.bool_]) -> None:
        """No thread can go on: lets those at the barrier through, if that is where all living threads are."""
        if parked.any():
            stuck = self.segments[int(at[parked].min())].instructions[0]
            raise EmulationFault(f"some lanes of a warp never arrive at an instruction of the whole warp, {stuck}")
        places = np.unique(at[waits])
        if places.size != 1:
            where = "; ".join(str(self.segments[int(p)].end) for p in places)
            raise EmulationFault(f"threads of one block wait at different barriers, {where}")
        at[waits] += 1
        waits[...] = False
        self.machine.barrier()

    def _meeting(
        self,
        at: NDArray[np.intp],
        position: int,
        here: NDArray[np.bool_],
        waits: NDArray[np.bool_],
        parked: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """The threads whose whole warp has come; the others are parked until it has."""
        come = (at == position) & ~waits
        gone = at == len(self.segments)
        whole = np.repeat((come | gone).reshape(-1, WARP).all(1), WARP)
        parked |= here & ~whole
        parked &= ~(come & whole)
        return come & whole
