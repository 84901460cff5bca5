"""What the source of a kernel depends on, beside the program."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .refusal import NotFused

PRECISIONS = ("ieee", "tf32x3", "tf32")


@dataclass(frozen=True)
class Settings:
    """Settings of a kernel.

    Attributes:
        rows: of a tile, a power of two.
        warps: that share a tile.
        precision: of the products of float32 tiles with matrices: "ieee", or on tensor cores "tf32x3" (three products,
            nearly as exact) or "tf32" (relative error 5e-4).
        tile: features of a tile; wider values are several.
        slopes_in_memory: see :mod:`.slopes`.
        keep_vectors: constant vectors stay in registers too, instead of being read at every stage.
        keep_gradients: sums of gradients stay in registers for a whole sweep, see :mod:`.gradients`.
    """

    rows: int = 8
    warps: int = 4
    precision: str = "ieee"
    tile: int = 32
    slopes_in_memory: bool = False
    keep_vectors: bool = True
    keep_gradients: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not known; known: {', '.join(PRECISIONS)}")
        for name, value in (("rows", self.rows), ("warps", self.warps)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name}={value} must be a power of two")


def type_name(dtype: torch.dtype) -> str:
    """The type of a state as the source names it.

    Raises:
        NotFused: it is not float32 or float64.
    """
    known = {torch.float32: "tl.float32", torch.float64: "tl.float64"}
    if dtype not in known:
        raise NotFused(f"a state of dtype {dtype}; float32 and float64 are served")
    return known[dtype]
