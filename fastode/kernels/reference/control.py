"""control:  accept[r] = err[r] <= 1,   t[r] += dt[r] if accepted,   dt[r] *= factor(err[r])

    factor = min(factor_max, max(safety * err^(-1/order), 1 if err < 1 else factor_min)),  factor_max for err = 0

The same rule as :class:`fastode.controller.Controller`, over rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...controller import Controller


def control(
    t: Tensor, dt: Tensor, err: Tensor, running: Tensor, controller: Controller
) -> tuple[Tensor, Tensor, Tensor]:
    """``(accept, t, dt)`` after the attempt; rows that are not ``running`` stay as they are.

    Args:
        t, dt, err: [R] float64; ``dt`` carries the sign of the direction.
        running: [R] bool.
    """
    size = dt.abs()
    accept = (err <= 1) & ~(size > controller.dt_max) | (size <= controller.dt_min)
    accept = accept & running
    floor = torch.full_like(dt, controller.factor_min).masked_fill_(err < 1, 1.0)
    wanted = controller.safety / err ** (1 / controller.order)
    factor = torch.where(
        err == 0, controller.factor_max, torch.clamp(torch.maximum(wanted, floor), max=controller.factor_max)
    )
    grown = torch.clamp(size * factor, controller.dt_min, controller.dt_max)
    grown = torch.where(torch.isfinite(grown), grown, torch.full_like(grown, controller.dt_min))
    return (
        accept,
        torch.where(accept, t + dt, t),
        torch.where(running, torch.copysign(grown, dt), dt),
    )
