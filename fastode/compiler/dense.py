"""Dense output of compiled fields: the polynomials of all steps, from the native call that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .engine import Job
from .steps import LINE, QUARTIC, AdaptiveSteps, lines


@dataclass
class DenseJob(Job):
    """A solve between two times, whose outputs are the polynomials of its steps.

    Attributes:
        ends: where steps begin and end, once it has run.
    """

    ends: list[float] = field(default_factory=list)

    def run(
        self, y0: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, Any]:
        """Coefficients [steps, 5 or 2, rows, features] of the powers of the fraction of a step, and the record.

        Raises:
            StepSizeUnderflow, TooManySteps, NonFiniteState: the solve failed.
        """
        steps, shape = self.steps, (self.rows, self.features)
        if isinstance(steps, AdaptiveSteps):
            record = self._chosen(steps, y0, arguments, constants, keep, None)
            self.ends = [self.times[0], *record.ends]
            out = torch.empty((len(record.ends), QUARTIC, *shape), dtype=y0.dtype)
            record.take_pieces(out.data_ptr())
            return out, record
        self.ends = steps.points
        out = torch.empty((len(steps.points) - 1, LINE, *shape), dtype=y0.dtype)
        return out, self._given(lines(steps.points), y0, arguments, constants, keep, out)
