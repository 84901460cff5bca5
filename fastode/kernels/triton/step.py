"""A step of a solve whose loop runs on the host: stages, new states and errors are Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..reference import quartic_weights
from ..reference.combine import Weight
from ..torch_step import TorchStep
from .combine import combine
from .norm import DeviceStep
from .stage import stage
from .tape import TritonTapeStep


class TritonStep(DeviceStep):
    """:class:`TorchStep` with one launch a stage for each part, and no number copied to the device and waited for."""

    engine = "triton"
    differentiable = False

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.binding = binding

    def stage(self, i: int, k: Parts) -> Parts:
        self.k.append(k)
        n = len(self.y) if i == self.tableau.stages - 1 else self.staged
        a = self.tableau.matrix[i]
        z = tuple([self._stage(i, p, a) for p in range(n)])
        self.y1 = (*z, *self.y[n:])
        return self.y1

    def advance(self, k: Parts) -> Parts:
        self.k.append(k)
        if not self.tableau.last_stage_is_solution:
            b = self.tableau.weights
            self.y1 = tuple([self._stage(self.tableau.stages, p, b) for p in range(len(self.y))])
        return self.y1

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: list[Weight]) -> Parts:
        if any([isinstance(w, Tensor) for w in weights]):
            return super().combine(base, vectors, weights)
        return tuple([combine(b, [v[p] for v in vectors], weights) for p, b in enumerate(base)])  # type: ignore[arg-type]

    def interpolate(self, x: Weight) -> Parts:
        if isinstance(x, Tensor) or isinstance(self.dt, Tensor):
            return super().interpolate(x)
        w, theta = quartic_weights(x, self.tableau.mid_weights)
        return self.combine(self.y, [self.y1, self.y, *self.k], [w, -w, *[self.dt * v for v in theta]])

    def to_tape(self) -> TorchStep:
        """These kernels, recording for autograd, in the middle of the present step."""
        return TritonTapeStep.taking_over(self.binding, self.y, self.dt, self.k, self.y1)

    def _stage(self, i: int, part: int, weights: Sequence[float]) -> Tensor:
        y, slopes = self.y[part], [k[part] for k in self.k]
        return stage(y, self.size, slopes, weights, self.launches((i, part), y, self.size))
