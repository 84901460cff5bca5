"""A step of rows on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..native.step import expand_tolerances
from ..reference.combine import Weight
from ..torch_step import TorchStep, nan_where_broken
from . import launch


class CudaRowsStep(TorchStep):
    """:class:`TorchStep` where ``t``, ``dt``, ``t1`` and the error norm are contiguous float64 tensors [R].

    The new state with its error norm, and dense output, are one kernel each for a part; stages are torch's operators.
    Kernels go to the caller's stream and wait for nothing. The norm is the root mean square of a row, the largest over
    the parts.
    """

    engine = "cuda"
    differentiable = False

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.binding = binding
        # copied to the device once, not in every step
        self.nodes = torch.tensor(self.tableau.nodes, dtype=self.dtype, device=self.device)
        self.tolerances = expand_tolerances(binding.like, self.rtol, self.atol)

    def finish(self, k: Parts) -> tuple[Parts, Tensor]:
        self.k.append(k)
        assert isinstance(self.dt, Tensor)
        weights: Sequence[float] = ()
        if not self.tableau.last_stage_is_solution:
            weights = self.tableau.weights
            self.y1 = tuple([torch.empty_like(p) for p in self.y])
        errors = self.tableau.error_weights or [0.0] * len(self.k)
        err = torch.empty_like(self.dt)
        rows = len(self.dt)
        with launch.stream_on(self.device) as stream:
            for p, (y, y1, rtol, atol) in enumerate(zip(self.y, self.y1, *self.tolerances, strict=True)):
                if isinstance(rtol, Tensor) and isinstance(atol, Tensor):
                    tolerance = 0.0, 0.0, rtol.data_ptr(), atol.data_ptr()
                else:
                    tolerance = float(rtol), float(atol), 0, 0
                launch.native.finish_rows(
                    y.element_size(), rows, y[:1].numel(), self._slopes(p), weights, errors,
                    self.dt.data_ptr(), y.data_ptr(), y1.data_ptr(), *tolerance, err.data_ptr(), p > 0, stream,
                )  # fmt: skip
        return self.y1, err if self.tableau.adaptive else nan_where_broken(self.y1)

    def interpolate(self, x: Weight) -> Parts:
        assert isinstance(self.dt, Tensor) and isinstance(x, Tensor)
        out = tuple([torch.empty_like(p) for p in self.y1])
        x = x.to(torch.float64).contiguous()
        rows, mid = len(x), self.tableau.mid_weights
        with launch.stream_on(self.device) as stream:
            for p, (y, y1, o) in enumerate(zip(self.y, self.y1, out, strict=True)):
                launch.native.interpolate_rows(
                    y.element_size(), rows, y[:1].numel(), self._slopes(p), mid,
                    x.data_ptr(), self.dt.data_ptr(), y.data_ptr(), y1.data_ptr(), o.data_ptr(), stream,
                )  # fmt: skip
        return out

    def to_tape(self) -> TorchStep:
        """Plain torch from here on."""
        return TorchStep.taking_over(self.binding, self.y, self.dt, self.k, self.y1)

    def _slopes(self, part: int) -> list[int]:
        return [slopes[part].data_ptr() for slopes in self.k]
