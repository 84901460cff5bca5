"""Solves along a grid that requires grad: the same native calls, of which the second has gradients of its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..fixed_grid import grid_from_step_size
from .engine import Job
from .steps import GridSteps, direction


@dataclass
class MovingGridJob(Job):
    """A solve along a grid; the last two of its constants are what :func:`moving_grid` returns."""

    def run(
        self, y0: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, Any]:
        """As :meth:`Job.run`; the grid is that of ``steps``, where the same numbers are."""
        return super().run(y0, arguments, constants[:-2], keep)

    def sweep(
        self,
        record: Any,
        grad: Tensor,
        y0: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """As :meth:`Job.sweep`."""
        *constants, points, x = constants
        of_points, of_x = (torch.zeros_like(p, dtype=torch.float64) for p in (points, x))
        addresses = of_points.data_ptr(), of_x.data_ptr()
        grad_y0, found = self._swept(record, grad, y0, arguments, constants, wanted[:-2], addresses)
        return grad_y0, [*found, of_points.to(points.dtype), of_x.to(x.dtype)]


def moves(t: Tensor, options: Mapping[str, Any]) -> bool:
    """Whether a grid requires grad."""
    made_of = (t, options.get("step_size"))
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in made_of)


def moving_grid(t: Tensor, steps: GridSteps, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The points [N + 1] of a grid, and the fractions [T] of their steps at which its outputs lie.

    Both are functions of ``t`` and of the step size.
    """
    x = torch.tensor(steps.output_x, dtype=t.dtype)
    step_size = options.get("step_size")
    if step_size is None:
        return t, x
    points = grid_from_step_size(step_size, t, direction(t.tolist()))
    if len(points) == 1:
        return points, x
    step = torch.tensor(steps.output_step).clamp_min(0)
    # an output at the end of a step is that end, and stays it
    inside = (x > 0) & (x < 1)
    return points, torch.where(inside, (t - points[step]) / (points[step + 1] - points[step]), x)
