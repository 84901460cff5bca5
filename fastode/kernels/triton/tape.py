"""The kernels of stages under a tape, and in its backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..launching import Launches
from ..reference.combine import Weight
from ..tape import TapeStep, Transposed
from .norm import DeviceStep
from .stage import stage


class _Transposed(Transposed):
    """``size`` and ``one`` are [1] float64 on the device: of ``dt`` and 1."""

    __slots__ = ("launches", "one", "part", "size")

    def __init__(
        self, rows: Sequence[Sequence[float]], dt: float, size: Tensor, one: Tensor, launches: Launches, part: int
    ) -> None:
        super().__init__(rows, dt)
        self.size, self.one, self.launches, self.part = size, one, launches, part

    def state(self, step: Any, i: int, before: Tensor, k: Tensor) -> Tensor:
        y, slopes = step
        return stage(y, self.size, [*slopes, k], self.rows[i], self.launches((i, self.part), y))

    def weighted_sum(self, bars: list[Tensor], weights: list[float]) -> Tensor:
        return stage(None, self.size, bars, weights, self.launches(("cotangent", *weights, self.part)))

    def plain_sum(self, bars: list[Tensor]) -> Tensor:
        first, *rest = bars
        if not rest:
            return first
        launch = self.launches(("start", len(rest), self.part), first)
        return stage(first, self.one, rest, [1.0] * len(rest), launch)


class TritonTapeStep(DeviceStep, TapeStep):
    """A launch for each stage, and for each slope in the backward pass."""

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.one = torch.ones(1, dtype=torch.float64, device=self.device)

    def begin_at(self, y: Parts, dt: Weight) -> None:
        super().begin_at(y, dt)
        if not isinstance(dt, Tensor):
            self.shared = [
                _Transposed(self.table, dt, self.size, self.one, self.launches, part) for part in range(len(y))
            ]

    def _node(self, i: int, k: Parts) -> Parts:
        self.steps = [(p, [s[j] for s in self.k]) for j, p in enumerate(self.y)]
        return super()._node(i, k)
