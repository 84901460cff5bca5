"""The kernels of a step bound to one solve, in plain torch: the reference engine's, on any device and dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..tree import Parts
from .binding import Binding
from .norms import Measured
from .reference import interpolate, rms_rows, scaled_error, stage
from .reference.combine import Weight, combine
from .upload import upload


def stage_times(nodes: Sequence[float] | Tensor, t: Tensor, dt: Tensor, t1: Tensor, dtype: torch.dtype) -> Tensor:
    """Times [S] or [S, R] of the stages, just before ``t1`` where a node is 1; computed in ``dtype``."""
    c = torch.as_tensor(nodes, dtype=dtype, device=t.device).view(-1, *[1] * t.ndim)
    start, size, end = t.to(dtype), dt.to(dtype), t1.to(dtype)
    before_end = torch.nextafter(end, end - torch.sign(size))
    return torch.where(c == 1, before_end, start + c * size)


def nan_where_broken(y1: Parts) -> Tensor:
    """The error of rows without an estimate, [R] float64: 0, or NaN where the new state is not finite."""
    return torch.stack([(p.abs() * 0).unsqueeze(-1).flatten(1).sum(dim=1) for p in y1]).sum(dim=0).to(torch.float64)


class TorchStep(Measured):
    """One step at a time: ``begin``, then ``stage`` and the field in turn, then ``finish``, then ``interpolate``."""

    engine = "reference"
    differentiable = True

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        like = binding.like
        self.tableau = binding.tableau
        self.nodes: Sequence[float] | Tensor = binding.tableau.nodes
        self.anchor = binding.anchor
        self.staged = len(like) - binding.quadratures
        self.dtype = like[0].real.dtype if like[0].is_complex() else like[0].dtype
        self.device = like[0].device
        self.y: Parts = ()
        self.y1: Parts = ()
        self.k: list[Parts] = []
        self.dt: Weight = 0.0
        self.rows = False

    def begin(self, t: Weight, dt: Weight, t1: Weight, y: Parts) -> Sequence[Tensor]:
        """Start a step at ``y``; the times of its stages, just before ``t1 = t + dt`` at the end."""
        self.begin_at(y, dt)
        start, size, end = (v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for v in (t, dt, t1))
        times = upload(stage_times(self.nodes, start, size, end, self.dtype), self.device)
        if self.anchor is not None:
            times = times + self.anchor
        return times.unbind(0)

    def begin_at(self, y: Parts, dt: Weight) -> None:
        """Start a step at ``y`` whose times are known elsewhere (a fixed grid)."""
        self.y, self.dt, self.k = y, dt, []
        self.rows = isinstance(dt, Tensor) and dt.ndim == 1

    def stage(self, i: int, k: Parts) -> Parts:
        """The state of stage ``i``, given the slope ``k`` of stage ``i - 1``."""
        self.k.append(k)
        a = self.tableau.matrix[i]
        n = len(self.y) if i == self.tableau.stages - 1 else self.staged
        z = tuple([stage(y, self.dt, [s[p] for s in self.k], a) for p, y in enumerate(self.y[:n])])
        z = (*z, *self.y[n:])
        self.y1 = z
        return z

    def finish(self, k: Parts) -> tuple[Parts, float | Tensor]:
        """The new state and the norm of the scaled error (per row if ``dt`` is), given the last slope."""
        self.advance(k)
        return self.y1, self.error()

    def advance(self, k: Parts) -> Parts:
        """The new state alone, for methods without an error estimate."""
        self.k.append(k)
        if not self.tableau.last_stage_is_solution:
            b = self.tableau.weights
            self.y1 = tuple([stage(y, self.dt, [s[p] for s in self.k], b) for p, y in enumerate(self.y)])
        return self.y1

    @torch.no_grad()
    def error(self) -> float | Tensor:
        """The norm of the scaled error of the step just finished."""
        if self.rows and not self.tableau.adaptive:
            return nan_where_broken(self.y1)
        ratios = self.scaled_errors()
        if self.rows:
            return torch.stack([rms_rows(r) for r in ratios]).amax(dim=0).to(torch.float64)
        return self.reduce(ratios)

    def scaled_errors(self) -> list[Tensor]:
        """The embedded error of each part in units of its tolerance."""
        weights = self.tableau.error_weights
        return [
            scaled_error(y, y1, self.dt, [s[p].detach() for s in self.k], weights, rtol, atol)
            for p, (y, y1, rtol, atol) in enumerate(zip(self.y, self.y1, self.rtol, self.atol, strict=True))
        ][: self.controlled]

    def interpolate(self, x: Weight) -> Parts:
        """Dense output at fraction ``x`` of the step just finished."""
        mid = self.tableau.mid_weights
        return tuple(
            [
                interpolate(y, y1, self.dt, [s[p] for s in self.k], mid, x)
                for p, (y, y1) in enumerate(zip(self.y, self.y1, strict=True))
            ]
        )

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: list[Weight]) -> Parts:
        """``base + sum_j weights[j] * vectors[j]`` for every part."""
        return tuple([combine(b, [v[p] for v in vectors], weights) for p, b in enumerate(base)])

    @classmethod
    def taking_over(cls, binding: Binding, y: Parts, dt: Weight, k: Sequence[Parts], y1: Parts) -> TorchStep:
        """These kernels in the middle of the step of others; ``y`` is empty between steps."""
        tape = cls(binding)
        if y:
            tape.begin_at(y, dt)
            tape.k = list(k)
            tape.y1 = y1
        return tape

    def to_tape(self) -> TorchStep:
        """These kernels, recording for autograd."""
        return self
