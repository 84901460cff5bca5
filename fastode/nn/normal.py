"""The standard normal as a base density."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class StandardNormal:
    """The standard normal in ``dim`` dimensions.

    It holds no tensors; dtype and device come as arguments.

    Args:
        dim: number of dimensions, ``D``.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __repr__(self) -> str:
        return f"StandardNormal({self.dim})"

    def log_prob(self, z: Tensor) -> Tensor:
        """Natural logarithm of the density at ``z: [B, D]``, as ``[B]``."""
        return -0.5 * (z * z).sum(1) - 0.5 * self.dim * math.log(2 * math.pi)

    def sample(self, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``n`` draws as ``[n, D]``, from torch's global generator."""
        return torch.randn(n, self.dim, dtype=dtype, device=device)
