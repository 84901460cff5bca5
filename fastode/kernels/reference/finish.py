"""finish:  y1[r,n]  = y[r,n] + dt[r] * sum_j b[j]     * k[j,r,n]
            e[r,n]   =          dt[r] * sum_j b_err[j] * k[j,r,n]
            err[r]   = norm_n( e[r,n] / (atol[n] + rtol[n] * max(|y[r,n]|, |y1[r,n]|)) ),   norm = root mean square

The step is accepted iff err <= 1. |.| is the modulus for complex states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .combine import Weight, combine, complex_sum, per_row

Tolerance = float | Tensor


def scaled_error(
    y: Tensor,
    y1: Tensor,
    dt: Weight,
    k: Sequence[Tensor],
    b_error: Sequence[float],
    rtol: Tolerance,
    atol: Tolerance,
) -> Tensor:
    """The embedded error in units of the tolerance, shaped as ``y``."""
    if y.is_complex() and not isinstance(dt, Tensor):
        error = complex_sum(dt, k, b_error)
        return error / (atol + rtol * torch.maximum(y.abs(), y1.abs()))
    error = torch.zeros_like(y)
    for w, v in zip(b_error, k, strict=True):
        if w != 0:
            error = error + v * per_row(dt * w, v)
    return error / (atol + rtol * torch.maximum(y.abs(), y1.abs()))


def rms(x: Tensor) -> Tensor:
    """Root mean square over everything; 0 for no elements."""
    return x.abs().pow(2).mean().sqrt() if x.numel() else x.new_zeros(()).abs()


def rms_rows(x: Tensor) -> Tensor:
    """Root mean square of each row, [R]; 0 for rows of no elements."""
    flat = x.abs().reshape(x.shape[0], x.shape[1:].numel())
    return flat.pow(2).mean(dim=1).sqrt() if flat.shape[1] else flat.new_zeros(x.shape[0])


def finish(
    y: Tensor,
    dt: Weight,
    k: Sequence[Tensor],
    b: Sequence[float],
    b_error: Sequence[float],
    rtol: Tolerance,
    atol: Tolerance,
) -> tuple[Tensor, Tensor]:
    """New state, and the norm of the scaled error of each row, [R] (``dt`` of shape [R]) or 0-dim."""
    y1 = combine(y, k, [0.0 if x == 0 else dt * x for x in b])
    ratio = scaled_error(y, y1, dt, k, b_error, rtol, atol)
    return y1, rms_rows(ratio) if isinstance(dt, Tensor) and dt.ndim == 1 else rms(ratio)
