"""Evaluate a field just before or just after a time, where it may jump."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor


class Perturb(Enum):
    """On which side of a time the field is evaluated: exactly there, just before, or just after."""

    NONE = 0
    PREV = 1
    NEXT = 2


def nextafter(t: Tensor, direction: float) -> Tensor:
    """The neighbour of ``t`` towards ``direction * infinity``; its gradient is the gradient of ``t``."""
    with torch.no_grad():
        shifted = torch.nextafter(t, t + direction)
    return shifted + (t - t.detach()) if t.requires_grad else shifted
