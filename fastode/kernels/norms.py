"""Norms of the scaled error: which step is accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..tree import Parts
from .reference.finish import rms

if TYPE_CHECKING:
    from .binding import Binding

#: Names that ``options['norm']`` takes beside a callable.
#: "rms": root mean square over the whole state (torchdiffeq's default; the largest of the parts' for tuples);
#: "max": the largest element; "per_sample": the largest root mean square of a sample (first axis), which a large
#: batch cannot dilute.
NAMED_NORMS = ("rms", "max", "per_sample")


def largest(values: Sequence[float]) -> float:
    """The maximum, NaN if any is NaN; 0 for none."""
    return math.nan if any(v != v for v in values) else max(values, default=0.0)


def max_norm(x: Tensor) -> Tensor:
    """Largest modulus; 0 for no elements."""
    return x.abs().max() if x.numel() else rms(x)


def per_sample_norm(x: Tensor) -> Tensor:
    """Largest root mean square over the samples of the first axis."""
    if x.ndim < 2 or not x.numel():
        return max_norm(x)
    return x.abs().pow(2).flatten(1).mean(dim=1).sqrt().max()


def by_name(name: str) -> Callable[[Tensor], Tensor]:
    """The norm of one part called ``name``."""
    return {"rms": rms, "max": max_norm, "per_sample": per_sample_norm}[name]


def mixed_norm(parts: Sequence[Tensor]) -> Tensor | float:
    """Largest root mean square of the parts of a tuple; 0 for none."""
    return max((rms(p) for p in parts), default=0.0)


def name_of(norm: Callable[[Any], Any], whole: bool) -> Any:
    """The name of a norm that kernels compute themselves, if ``norm`` is one of theirs; else ``norm``.

    Args:
        whole: the state is one tensor, not a structure.
    """
    names = {rms: "rms", max_norm: "max", per_sample_norm: "per_sample"} if whole else {mixed_norm: "rms"}
    return next((name for known, name in names.items() if known is norm), norm)


class UserNorm:
    """A callable norm over the state as the user knows it."""

    def __init__(self, norm: Callable[[Any], Any], restore: Callable[[Sequence[Tensor]], Any]) -> None:
        self.norm = norm
        self.restore = restore

    def __call__(self, parts: Sequence[Tensor]) -> float:
        return abs(float(self.norm(self.restore(parts))))


Norm = str | UserNorm


class Measured:
    """The norm of a solve, over scaled errors and over anything else in units of the tolerance."""

    def __init__(self, binding: Binding) -> None:
        self.norm = binding.norm
        self.rtol, self.atol = binding.rtol, binding.atol
        self.controlled = binding.controlled

    def reduce(self, ratios: Sequence[Tensor]) -> float:
        """The norm of scaled values, one tensor a part."""
        if isinstance(self.norm, UserNorm):
            return self.norm(ratios)
        norm = by_name(self.norm)
        return largest([float(norm(r)) for r in ratios[: self.controlled]])

    @torch.no_grad()
    def norm_of(self, y: Parts, plus: Parts, minus: Parts | None = None) -> float:
        """The norm of ``(plus - minus) / (atol + rtol |y|)``, with which the first step is chosen."""
        values = plus if minus is None else [p - m for p, m in zip(plus, minus, strict=True)]
        return self.reduce([v / (a + r * s.abs()) for v, s, r, a in zip(values, y, self.rtol, self.atol, strict=True)])
