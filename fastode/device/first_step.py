"""The first step size of one shared step, by Hairer's heuristic, without a word to the host.

The arithmetic of :func:`fastode.controller.initial_step` in 0-dim tensors of the state's real dtype (float32 for 16
bits). Reference: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4, p. 169.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels.reference import combine, rms
from ..problem import Problem
from ..tableau import ButcherTableau
from ..tree import Parts


@torch.no_grad()
def first_step(problem: Problem, tableau: ButcherTableau, k0: Parts, t: Tensor) -> tuple[Tensor, Parts]:
    """The size, 0-dim float64, and a copy of the first slope; one evaluation of the field.

    Args:
        k0: the slope at the start.
        t: [1] float64; the start.
    """
    y, field = problem.y0, problem.field
    kept = tuple([k.detach().clone() for k in k0])
    precision = torch.float32 if y[0].element_size() == 2 else y[0].dtype
    scales = [a + r * p.to(precision).abs() for p, r, a in zip(y, problem.rtol, problem.atol, strict=True)]

    def norm(parts: Sequence[Tensor]) -> Tensor:
        each = [rms(p.to(precision) / s) for p, s in zip(parts, scales, strict=True)]
        return torch.stack(each[: problem.controlled]).amax()

    def slope(t1: Tensor, trial: Parts) -> Parts:
        f1 = field(t1.to(problem.real_dtype), trial)
        field.detect_shared_buffer(k0, f1)
        return f1

    staged = len(y) - problem.quadratures
    return hairer(norm, slope, y, kept, t[0], problem.direction, tableau.order, staged), kept


def hairer(
    norm: Callable[[Sequence[Tensor]], Tensor],
    slope: Callable[[Tensor, Parts], Parts],
    y: Parts,
    k0: Parts,
    t: Tensor,
    direction: float,
    order: int,
    staged: int | None = None,
) -> Tensor:
    """The size, 0-dim float64.

    Args:
        norm: of parts, in units of the tolerance, 0-dim.
        slope: the field at a time (0-dim float64) and a state.
        y, k0: state and slope at the start; t: 0-dim float64, where that is.
        staged: how many leading parts the field depends on; None for all.
    """
    d0, d1 = norm(y), norm(k0)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    signed = direction * h0
    trial = tuple([combine(p, [k], [signed]) for p, k in zip(y[:staged], k0, strict=False)])
    f1 = slope(t + signed, (*trial, *y[len(trial) :]))
    d2 = norm([a.to(d0.dtype) - b for a, b in zip(f1, k0, strict=True)]) / h0
    # comparisons are false for NaN: a NaN of d2 alone is ignored, as in torchdiffeq
    largest = torch.where(d2 > d1, d2, d1)
    flat = (d1 <= 1e-15) & (d2 <= 1e-15)
    h1 = torch.where(flat, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / order))
    ceiling = 100 * h0
    return torch.where(h1 < ceiling, h1, ceiling).double()
