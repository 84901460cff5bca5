"""The native kernels with a step size for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..torch_step import TorchStep, nan_where_broken
from .step import NativeStep


class NativeRowsStep(NativeStep):
    """:class:`NativeStep` where ``t``, ``dt``, ``t1`` and the error norm are contiguous float64 tensors [R].

    The norm is the root mean square of a row, the largest over the parts.
    """

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.stages = [step.stage_rows for step in self.steps]

    def begin(self, t: Any, dt: Any, t1: Any, y: Parts) -> Sequence[Tensor]:
        self.begin_at(y, dt)
        self.size = dt.data_ptr()
        times = torch.empty(self.tableau.stages, len(t), dtype=y[0].dtype)
        self.steps[0].times_rows(t.data_ptr(), dt.data_ptr(), t1.data_ptr(), times.data_ptr())
        return times.unbind(0)

    def finish(self, k: Parts) -> tuple[Parts, Any]:
        self._place_solution(k)
        errors = torch.empty(len(self.steps), len(self.dt), dtype=torch.float64)
        for step, slope, out, err in zip(self.steps, k, self.y1, errors.unbind(0), strict=True):
            step.finish_rows(self.size, slope.data_ptr(), out.data_ptr(), self.write, err.data_ptr())
        if not self.tableau.adaptive:
            return self.y1, nan_where_broken(self.y1)
        return self.y1, errors[0] if len(errors) == 1 else errors.amax(dim=0)

    def interpolate(self, x: Any) -> Parts:
        out = tuple([torch.empty_like(p, requires_grad=False) for p in self.y1])
        x = x.to(torch.float64).contiguous()
        for step, y1, o in zip(self.steps, self.y1, out, strict=True):
            step.interpolate_rows(x.data_ptr(), self.dt.data_ptr(), y1.data_ptr(), o.data_ptr())
        return out

    def to_tape(self) -> TorchStep:
        """Plain torch: the native tape is for one shared step."""
        return TorchStep.taking_over(self.binding, self.y, self.dt, self.k, self.scratch)
