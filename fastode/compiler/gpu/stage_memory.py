"""What a sweep keeps while it runs through the stages, in memory of the program's own, which the cache holds.

The registers are left to the field and its vector-Jacobian product. So that they do not hold addresses either, each
loop has a pointer of its own: what the compiler knows to be the same in all steps, it would compute once and keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .field import indented
from .state import State

#: of every stage
SLOPES, COTANGENTS = range(2)
#: of the step: the cotangent of its end, and that of its start but for what the stages give
END, START = range(2)


@dataclass(frozen=True)
class StageMemory:
    """``scratch`` of [programs, width, ROWS].

    What is written here is read by other threads after a barrier, and written again, in the next step, after another.
    Lines in the loop over stages take ``memory_of_stage``, those around it ``memory_of_step``.

    Attributes:
        state: of the solver.
        seen: the features of it that the field sees, of which stages have slopes and cotangents.
    """

    state: State
    seen: State
    stages: int

    @property
    def width(self) -> int:
        """Elements of one row."""
        return 2 * (self.stages * _width(self.seen) + _width(self.state))

    def begin(self) -> list[str]:
        """Lines at the start of a kernel."""
        return [f"memory = scratch + tl.program_id(0).to(tl.int64) * ({self.width} * ROWS)"]

    def put_stage(self, kind: int, values: Sequence[str]) -> list[str]:
        """Lines that write a vector of ``stage``, an expression for each part."""
        return [*_stores(self._of_stage("memory_of_stage", kind, "stage"), values), "tl.debug_barrier()"]

    def weighted_stages(self, name: str, kind: int, stages: tuple[str, str], weight: str) -> list[str]:
        """Lines that add the vectors of stages ``j`` from the first up to before the second to ``name``.

        Args:
            weight: where that of stage ``j`` is.
        """
        first, end = stages
        loads = [f"weighted(weight, tl.load({place}))" for place in self._of_stage("memory_of_stage", kind, "j")]
        adds = [f"{name}_{n} += {load}" for n, load in enumerate(loads)]
        return [f"for j in range({first}, {end}):", *indented([f"weight = tl.load({weight})", *adds])]

    def get_end(self, name: str) -> list[str]:
        """Lines that read the cotangent of the step's end, at a stage."""
        return _loads(name, self._of_step("memory_of_stage", END))

    def begin_step(self, end: Sequence[str], start: Sequence[str]) -> list[str]:
        """Lines that write the cotangents of the step."""
        return [
            *_stores(self._of_step("memory_of_step", END), end),
            *_stores(self._of_step("memory_of_step", START), start),
            "tl.debug_barrier()",
        ]

    def end_step(self, name: str, stages: str) -> list[str]:
        """Lines that make ``name`` the cotangent of the step's start, with what so many stages have given."""
        bars = self._of_stage("memory_of_step", COTANGENTS, "j")
        return [
            *_loads(name, self._of_step("memory_of_step", START)),
            f"for j in range(0, {stages}):",
            *indented([f"{name}_{n} += tl.load({place})" for n, place in enumerate(bars)]),
            # the next step overwrites them
            "tl.debug_barrier()",
        ]

    def _of_stage(self, memory: str, kind: int, stage: str) -> list[str]:
        return _places(self.seen, f"{memory} + ({kind * self.stages} + {stage}) * ({_width(self.seen)} * ROWS)")

    def _of_step(self, memory: str, kind: int) -> list[str]:
        before = 2 * self.stages * _width(self.seen) + kind * _width(self.state)
        return _places(self.state, f"{memory} + {before} * ROWS")


def _width(vector: State) -> int:
    return sum(p.padded or 1 for p in vector.parts)


def _places(vector: State, start: str) -> list[str]:
    """Where the parts of a vector are that begins at ``start``."""
    places, offset = [], 0
    for p in vector.parts:
        inside = f"lane[:, None] * {p.padded} + columns_{p.padded}" if p.padded else "lane"
        places.append(f"{start} + {offset} * ROWS + {inside}")
        offset += p.padded or 1
    return places


def _stores(places: Sequence[str], values: Sequence[str]) -> list[str]:
    return [f"tl.store({place}, {value})" for place, value in zip(places, values, strict=True)]


def _loads(name: str, places: Sequence[str]) -> list[str]:
    return [f"{name}_{n} = tl.load({place})" for n, place in enumerate(places)]
