"""The first step size of one shared step, by Hairer's heuristic, without a word to the host.

The arithmetic of :func:`fastode.controller.initial_step` in 0-dim tensors of the state's real dtype (float32 for 16
bits). Reference: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4, p. 169.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.reference import combine, rms
from ..problem import Problem
from ..tableau import ButcherTableau
from ..tree import Parts


@torch.no_grad()
def first_step(problem: Problem, tableau: ButcherTableau, k0: Parts, t: Tensor) -> tuple[Tensor, Parts]:
    """The size, [1] float64, and a copy of the first slope; one evaluation of the field.

    Args:
        k0: the slope at the start.
        t: [1] float64; the start.
    """
    y, field = problem.y0, problem.field
    kept = tuple([k.detach().clone() for k in k0])
    staged = len(y) - problem.quadratures
    precision = torch.float32 if y[0].element_size() == 2 else y[0].dtype
    scales = [a + r * p.to(precision).abs() for p, r, a in zip(y, problem.rtol, problem.atol, strict=True)]

    def norm(parts: Sequence[Tensor]) -> Tensor:
        each = [rms(p.to(precision) / s) for p, s in zip(parts, scales, strict=True)]
        return torch.stack(each[: problem.controlled]).amax()

    d0, d1 = norm(y), norm(kept)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    signed = problem.direction * h0
    trial = tuple([combine(p, [k], [signed]) for p, k in zip(y[:staged], kept, strict=False)])
    f1 = field((t[0] + signed).to(problem.real_dtype), (*trial, *y[staged:]))
    field.detect_shared_buffer(k0, f1)
    d2 = norm([a.to(precision) - b for a, b in zip(f1, kept, strict=True)]) / h0
    # comparisons are false for NaN: a NaN of d2 alone is ignored, as in torchdiffeq
    largest = torch.where(d2 > d1, d2, d1)
    flat = (d1 <= 1e-15) & (d2 <= 1e-15)
    h1 = torch.where(flat, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / tableau.order))
    ceiling = 100 * h0
    return torch.where(h1 < ceiling, h1, ceiling).double().reshape(1), kept
