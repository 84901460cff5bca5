"""How many rows a tile has and how many warps share it."""

from __future__ import annotations

import torch

from ..program import Program
from .settings import Settings


def settings_for(program: Program, dtype: torch.dtype, precision: str = "ieee") -> Settings:
    """The settings of a program's kernels."""
    widest = max((op.width for op in program.ops), default=1)
    if widest <= 8:
        return Settings(rows=32, warps=1, precision=precision)
    return Settings(rows=16, warps=4, precision=precision)
