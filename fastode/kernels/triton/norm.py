"""The norm of the embedded error for a loop that runs on the host: a launch for each part, and one wait."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..launching import Launches
from .finish import PartialSums, Tolerances, finish


class ErrorNorm:
    """The largest root mean square of the parts' scaled errors.

    Attributes:
        serves: whether that is the norm of the solve.
    """

    def __init__(self, binding: Binding) -> None:
        self.tableau = binding.tableau
        self.launches = Launches()
        self.serves = binding.norm == "rms" and binding.rows is None and self.tableau.adaptive
        if self.serves:
            parts = binding.like[: binding.controlled]
            self.partial = PartialSums.of(parts, 1, lockstep=True)
            self.tolerances = Tolerances(binding.like, binding.rtol, binding.atol).pairs

    def __call__(self, y: Parts, y1: Parts, size: Tensor, slopes: list[Parts]) -> float:
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
            launch = self.launches(p, y[p], y1[p])
            finish(y[p], y1[p], False, size, of_part, *weights, self.tolerances[p], partial, p, launch)
        sums = [partial.sums[a:b].sum() for a, b in pairwise(first)]
        return float((torch.stack(sums) / partial.elements).amax().sqrt())
