"""Steps of a loop that runs on the host: their size on the device, and the norm of their error in one launch a part."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..launching import Launches
from ..reference.combine import Weight
from ..torch_step import TorchStep
from .finish import PartialSums, Tolerances, finish


class ErrorNorm:
    """The largest root mean square of the parts' scaled errors.

    Attributes:
        serves: whether that is the norm of the solve.
    """

    def __init__(self, binding: Binding) -> None:
        self.tableau = binding.tableau
        self.serves = binding.norm == "rms" and binding.rows is None and self.tableau.adaptive
        if self.serves:
            parts = binding.like[: binding.controlled]
            self.partial = PartialSums.of(parts, 1, lockstep=True)
            self.tolerances = Tolerances(binding.like, binding.rtol, binding.atol).pairs

    def __call__(self, y: Parts, y1: Parts, size: Tensor, slopes: list[Parts], launches: Launches) -> float:
        """Waits for the device.

        Args:
            size: [1] float64; the signed size of the step.
            slopes: of all stages, contiguous, each with all parts.
        """
        tableau, partial = self.tableau, self.partial
        first = partial.first
        weights = tableau.weights, tableau.error_weights
        for p in range(len(first) - 1):
            of_part = [k[p] for k in slopes]
            launch = launches(("finish", p), y[p], y1[p])
            finish(y[p], y1[p], False, size, of_part, *weights, self.tolerances[p], partial, p, launch)
        sums = [partial.sums[a:b].sum() for a, b in pairwise(first)]
        return float((torch.stack(sums) / partial.elements).amax().sqrt())


class DeviceStep(TorchStep):
    """What steps with and without a tape share.

    Attributes:
        size: [1] or [R] float64; the signed size of the step.
        launches: those that a step repeats.
    """

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.norm_of_error = ErrorNorm(binding)
        self.launches = Launches()

    def begin_at(self, y: Parts, dt: Weight) -> None:
        super().begin_at(y, dt)
        # a fill is a launch; a copy of a number would wait for the device
        size = dt.detach() if isinstance(dt, Tensor) else torch.full((1,), dt, dtype=torch.float64, device=self.device)
        self.size = size.to(torch.float64).reshape(-1)

    @torch.no_grad()
    def error(self) -> float | Tensor:
        if self.norm_of_error.serves:
            return self.norm_of_error(self.y, self.y1, self.size, self.k, self.launches)
        return super().error()
