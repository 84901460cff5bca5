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

    def _apart(self, constants: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return constants[:-2], constants[-2:]


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
