"""combine:  out[r, n] = base[r, n] + sum_j w[j] * v[j, r, n]      (w[j] a number, or w[j][r] one per row)

The linear combination under every Runge-Kutta stage, new state and dense output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..upload import upload

Weight = float | Tensor


def per_row(w: Weight, like: Tensor) -> Weight:
    """A weight of shape [R] shaped so that it multiplies rows of ``like``; others as they are."""
    if isinstance(w, Tensor):
        w = w.to(like.dtype) if not like.is_complex() else w.to(like.real.dtype)
        if w.ndim == 1:
            return w.reshape(-1, *[1] * (like.ndim - 1))
    return w


def where_rows(keep: Tensor, values: Tensor, other: Weight) -> Tensor:
    """``values`` where ``keep``, a mask over their leading axes, holds; else ``other``."""
    return torch.where(keep.view(*keep.shape, *[1] * (values.ndim - keep.ndim)), values, other)


def complex_sum(dt: float, vectors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """``dt * sum_j coefficients[j] * vectors[j]`` in torchdiffeq's order and precision: while an error estimate is
    rounding noise, the steps depend on it. (Real states get that order from the native engine.)"""
    like = vectors[0].real
    row = torch.tensor([*coefficients, dt], dtype=torch.float64).to(like.dtype)
    return (torch.stack(tuple(vectors), dim=-1) * (row[:-1] * row[-1]).to(like.device)).sum(dim=-1)


def combine(base: Tensor, vectors: Sequence[Tensor], weights: Sequence[Weight]) -> Tensor:
    """``base + sum_j weights[j] * vectors[j]``, differentiable in everything.

    Args:
        base, vectors: [R, ...] floating or complex, one shape, dtype and device.
        weights: numbers, 0-dim tensors, or tensors [R].

    Equal scalars over three or more vectors go through one ``addmv``: a tape then holds one node instead of one per
    vector, which is what costs on small states.
    """
    terms = [(v, w) for v, w in zip(vectors, weights, strict=True) if isinstance(w, Tensor) or w != 0]
    if not terms:
        return base.clone()
    if len(terms) > 2 and not any(isinstance(w, Tensor) for _, w in terms):
        stacked = torch.stack([v.reshape(-1) for v, _ in terms], dim=-1)
        row = upload(torch.tensor([w for _, w in terms], dtype=base.dtype), base.device)
        return torch.addmv(base.reshape(-1), stacked, row).view(base.shape)
    out = base
    for v, w in terms:
        out = out + v * per_row(w, v) if isinstance(w, Tensor) else torch.add(out, v, alpha=w)
    return out
