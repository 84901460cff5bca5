"""Where the slopes of a step are: in registers, or in memory of the tile's own, which the cache holds.

Slope j of a state's part n is ``k{j}_{n}`` in registers. A loop over the stages cannot index variables, so all of them
are rewritten at every stage, each where the stage is its own: right for few features and stages. In memory they cost no
registers, whatever their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from .settings import Settings
from .state import State

#: lines after those of ``a`` in the coefficients of a tableau
WEIGHTS, ERROR, MIDPOINT = range(3)


@dataclass(frozen=True)
class Slopes(ABC):
    """The slopes of a step.

    ``coefficients`` of the kernel points at the tableau in the state's type: the lines of ``a``, S numbers each, then
    ``b``, the weights of the error and those of the midpoint.
    """

    state: State
    stages: int

    @property
    @abstractmethod
    def parameters(self) -> list[str]:
        """Pointers that the kernel needs for them."""

    @abstractmethod
    def begin(self, first: int) -> list[str]:
        """Lines before the stages from ``first`` on."""

    @abstractmethod
    def put(self, slope: Sequence[str], first: int) -> list[str]:
        """Lines that keep the slope of ``stage``, which is ``first`` or later; an expression for each part."""

    @abstractmethod
    def stage_sum(self) -> list[str]:
        """Lines that make ``sum``, the slopes weighted by the line of ``a`` of ``stage``."""

    @abstractmethod
    def sum(self, line: int) -> list[str]:
        """Lines that make ``sum``, all slopes weighted by ``WEIGHTS``, ``ERROR`` or ``MIDPOINT``."""

    @abstractmethod
    def set_first(self, values: Sequence[str]) -> list[str]:
        """Lines that make expressions, one for each part, the first slope."""

    @abstractmethod
    def get(self, j: int, name: str) -> list[str]:
        """Lines that make ``name`` slope j."""


class InRegisters(Slopes):
    """Variables."""

    @property
    def parameters(self) -> list[str]:
        return []

    def begin(self, first: int) -> list[str]:
        return [line for j in range(first, self.stages) for line in self.state.zeros(f"k{j}")]

    def put(self, slope: Sequence[str], first: int) -> list[str]:
        return [
            f"k{j}_{n} = tl.where(stage == {j}, {value}, k{j}_{n})"
            for j in range(first, self.stages)
            for n, value in enumerate(slope)
        ]

    def stage_sum(self) -> list[str]:
        return self._sum("stage", max(1, self.stages - 1))

    def sum(self, line: int) -> list[str]:
        return self._sum(str(self.stages + line), self.stages)

    def _sum(self, line: str, count: int) -> list[str]:
        place = f"coefficients + {line} * {self.stages}"
        lines = [f"weight{j} = tl.load({place} + {j})" for j in range(count)]
        terms = " + ".join(f"weighted(weight{j}, {{k{j}}})" for j in range(count))
        return lines + self.state.each("sum", terms, [f"k{j}" for j in range(count)])

    def set_first(self, values: Sequence[str]) -> list[str]:
        return [f"k0_{n} = {value}" for n, value in enumerate(values)]

    def get(self, j: int, name: str) -> list[str]:
        return self.state.each(name, f"{{k{j}}}", [f"k{j}"])


class InMemory(Slopes):
    """Memory of [tiles, stages, width of the parts, ROWS]; what is not yet there has no weight."""

    @property
    def parameters(self) -> list[str]:
        return ["slopes"]

    @property
    def width(self) -> int:
        """Elements of one slope of one row."""
        return sum(p.padded or 1 for p in self.state.parts)

    def begin(self, first: int) -> list[str]:
        return []

    def put(self, slope: Sequence[str], first: int) -> list[str]:
        return self._write("stage", slope)

    def stage_sum(self) -> list[str]:
        return self._sum("stage", "stage")

    def sum(self, line: int) -> list[str]:
        return self._sum(str(self.stages + line), "stages")

    def _sum(self, line: str, count: str) -> list[str]:
        adds = [f"sum_{n} += weighted(weight, tl.load({place}))" for n, place in enumerate(self._places("j"))]
        return [
            *self.state.zeros("sum"),
            f"for j in range(0, {count}):",
            f"    weight = tl.load(coefficients + {line} * {self.stages} + j)",
            *[f"    {line}" for line in adds],
        ]

    def set_first(self, values: Sequence[str]) -> list[str]:
        return self._write("0", values)

    def get(self, j: int, name: str) -> list[str]:
        return [f"{name}_{n} = tl.load({place})" for n, place in enumerate(self._places(str(j)))]

    def _write(self, j: str, values: Sequence[str]) -> list[str]:
        """With barriers on both sides: other threads have read what is overwritten, and read what is written."""
        stores = [f"tl.store({place}, {value})" for place, value in zip(self._places(j), values, strict=True)]
        return ["tl.debug_barrier()", *stores, "tl.debug_barrier()"]

    def _places(self, j: str) -> list[str]:
        places, offset = [], 0
        size = f"({self.width} * ROWS)"
        for p in self.state.parts:
            inside = f"lane[:, None] * {p.padded} + columns_{p.padded}" if p.padded else "lane"
            tile = f"tl.program_id(0).to(tl.int64) * ({self.stages} * {size})"
            places.append(f"slopes + {tile} + {j} * {size} + {offset} * ROWS + {inside}")
            offset += p.padded or 1
        return places


def slopes_of(state: State, stages: int, settings: Settings) -> InRegisters | InMemory:
    """Where the slopes of a state's steps are."""
    return (InMemory if settings.slopes_in_memory else InRegisters)(state, stages)
