"""stage:  z[r, n] = y[r, n] + dt[r] * sum_j a[j] * k[j, r, n]      the state at which stage i is evaluated"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .combine import Weight, combine, complex_sum


def stage(y: Tensor, dt: Weight, k: Sequence[Tensor], a: Sequence[float]) -> Tensor:
    """``y + dt * sum_j a[j] k[j]``; ``dt`` a number, a 0-dim tensor, or [R]."""
    if y.is_complex() and not isinstance(dt, Tensor):
        return y + complex_sum(dt, k, a)
    if y.is_cuda and not isinstance(dt, Tensor) and sum(x != 0 for x in a) > 2:
        used = [(s, x) for s, x in zip(k, a, strict=True) if x != 0]
        stacked = torch.stack([s.reshape(-1) for s, _ in used], dim=-1)
        row = _on_device(tuple([x for _, x in used]), y.dtype, y.device)
        return torch.addmv(y.reshape(-1), stacked, row, alpha=dt).view(y.shape)
    return combine(y, k, [0.0 if x == 0 else dt * x for x in a])


@functools.lru_cache(maxsize=256)
def _on_device(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of a method, copied to a device once: the host waits for a copy of numbers."""
    return torch.tensor(weights, dtype=dtype, device=device)
