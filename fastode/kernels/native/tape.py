"""The native kernels under a tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..recycle import time_buffer
from ..reference.combine import Weight
from ..tape import TapeStep, Transposed
from .step import NativeStep, combine_into


class _Transposed(Transposed):
    __slots__ = ()

    def state(self, step: Any, i: int, before: Tensor, k: Tensor) -> Tensor:
        z = torch.empty_like(before)
        if i < len(self.rows) - 1:
            step.stage(i, self.dt, k.data_ptr(), z.data_ptr())
        else:
            step.finish(self.dt, k.data_ptr(), z.data_ptr(), True)
        return z

    def weighted_sum(self, bars: list[Tensor], weights: list[float]) -> Tensor:
        dt = self.dt
        return _combined(bars, [dt * w for w in weights])

    def plain_sum(self, bars: list[Tensor]) -> Tensor:
        return _combined(bars, [1.0] * len(bars))


def _combined(bars: list[Tensor], weights: list[float]) -> Tensor:
    out = torch.empty_like(bars[0])
    combine_into(out, None, bars, weights)
    return out


class NativeTapeStep(TapeStep):
    """C++ inside; the error norm, which autograd must not see, is the native one."""

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.native = NativeStep(binding)
        self.clock = time_buffer(self.tableau.stages, self.dtype)
        self.steps = self.native.steps

    def begin(self, t: Weight, dt: Weight, t1: Weight, y: Parts) -> Sequence[Tensor]:
        self.begin_at(y, dt)
        base, times = self.clock.take()
        self.native.steps[0].times(t, dt, t1, base.data_ptr())  # type: ignore[arg-type]
        return times if self.anchor is None else (base + self.anchor).unbind(0)

    def begin_at(self, y: Parts, dt: Weight) -> None:
        super().begin_at(y, dt)
        if not isinstance(dt, Tensor):
            self.native.point_at(y, dt)
            self.shared = [_Transposed(self.table, dt) for _ in y]

    def take_over(self, k: Sequence[Parts]) -> None:
        """Go on with a step whose first slopes are known."""
        self.k = list(k)
        self.native.register(k)

    def error(self) -> float | Tensor:
        return self.native.error_at(self.y1, self.k[-1])
