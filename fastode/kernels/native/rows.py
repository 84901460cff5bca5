"""The native kernels with a step size for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...tree import Parts
from ..torch_step import TorchStep, nan_where_broken
from .step import NativeStep


class NativeRowsStep(NativeStep):
    """:class:`NativeStep` where ``t``, ``dt``, ``t1`` and the error norm are contiguous float64 tensors [R].

    The norm is the root mean square of a row, the largest over the parts.
    """

    def begin(self, t: Any, dt: Any, t1: Any, y: Parts) -> Sequence[Tensor]:
        self.begin_at(y, dt)
        self.pointer = dt.data_ptr()
        times = torch.empty(self.tableau.stages, len(t), dtype=y[0].dtype)
        self.steps[0].times_rows(t.data_ptr(), dt.data_ptr(), t1.data_ptr(), times.data_ptr())
        return times.unbind(0)

    def stage(self, i: int, k: Parts) -> Parts:
        self.k.append(k)
        if self.alone:
            spares = self.spares[0]
            if self.scratch:
                spares.give(self.scratch[0])
                self.scratch = ()
            out = spares.take()
            self.steps[0].stage_rows(i, self.pointer, k[0].data_ptr(), out.data_ptr())
            self.scratch = (out,)
            return self.scratch
        for spares, part in zip(self.spares, self.scratch, strict=False):
            spares.give(part)
        self.scratch = ()
        z = tuple([spares.take() for spares in self.spares])
        for step, slope, out in zip(self.steps, k, z, strict=True):
            step.stage_rows(i, self.pointer, slope.data_ptr(), out.data_ptr())
        self.scratch = z
        return z

    def finish(self, k: Parts) -> tuple[Parts, Any]:
        self._place_solution(k)
        errors = torch.empty(len(self.steps), len(self.dt), dtype=torch.float64)
        for step, slope, out, err in zip(self.steps, k, self.y1, errors.unbind(0), strict=True):
            step.finish_rows(self.pointer, slope.data_ptr(), out.data_ptr(), self.write, err.data_ptr())
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
        tape = TorchStep(self.binding)
        if self.y:
            tape.begin_at(self.y, self.dt)
            tape.k = list(self.k)
            tape.y1 = self.scratch
        return tape
