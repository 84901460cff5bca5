"""The native kernels under a tape: one autograd node around each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...tree import Parts
from ..binding import Binding
from ..recycle import TimeBuffer
from ..reference.combine import Weight
from ..torch_step import TorchStep
from .step import NativeStep, spread


class _Combination(torch.autograd.Function):
    """``y + sum_j w_j k_j``, computed by ``launch`` into a fresh tensor.

    The backward is made of torch's operators, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, launch: Callable[[int], Any], weights: Sequence[float], y: Tensor, *k: Tensor) -> Tensor:
        ctx.weights = weights
        z = torch.empty_like(y)
        launch(z.data_ptr())
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weights = ctx.weights
        if grad.requires_grad or type(grad) is not Tensor or not grad.is_contiguous():
            return None, None, grad, *[grad * w for w in weights]
        return None, None, grad, *spread(grad, weights)


# torch.autograd.Function.apply looks for function transforms first, which costs as much as the kernel; under a
# transform the native engine does not serve.
_combination = super(torch.autograd.Function, _Combination).apply


def _nonzero(row: Sequence[float]) -> list[tuple[int, float]]:
    return [(j, c) for j, c in enumerate(row) if c != 0]


class NativeTapeStep(TorchStep):
    """:class:`~fastode.kernels.torch_step.TorchStep` with C++ inside.

    On small states a node costs about what torch's own operators for the same sum cost (25 to 35 microseconds), on
    large ones it saves their passes over memory, and it has the bits of the solve without gradients. The error norm,
    which autograd must not see, is the native one. A step size that is a tensor (a gradient of time on a fixed grid)
    goes through torch's operators.
    """

    engine = "autograd"

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self.native = NativeStep(binding)
        self.clock = TimeBuffer(self.tableau.stages, self.dtype)
        #: for each stage, and last for the new state, the slopes that it is made of: a zero weight needs no edge
        self.terms = [_nonzero(row) for row in (*self.tableau.matrix, self.tableau.weights)]

    def begin(self, t: Weight, dt: Weight, t1: Weight, y: Parts) -> Sequence[Tensor]:
        self.begin_at(y, dt)
        base, times = self.clock.take()
        self.native.steps[0].times(t, dt, t1, base.data_ptr())  # type: ignore[arg-type]
        return times if self.anchor is None else (base + self.anchor).unbind(0)

    def begin_at(self, y: Parts, dt: Weight) -> None:
        super().begin_at(y, dt)
        if not isinstance(dt, Tensor):
            self.native.point_at(y, dt)

    def take_over(self, k: Sequence[Parts]) -> None:
        """Go on with a step whose first slopes are known."""
        self.k = list(k)
        self.native.register(k)

    def stage(self, i: int, k: Parts) -> Parts:
        dt = self.dt
        if isinstance(dt, Tensor):
            return super().stage(i, k)
        self.k.append(k)
        terms, known = self.terms[i], self.k
        weights = [c * dt for _, c in terms]
        self.y1 = tuple(
            [
                _combination(partial(step.stage, i, dt, slope.data_ptr()), weights, y, *[known[j][p] for j, _ in terms])
                for p, (step, y, slope) in enumerate(zip(self.native.steps, self.y, k, strict=True))
            ]
        )
        return self.y1

    def advance(self, k: Parts) -> Parts:
        dt = self.dt
        if isinstance(dt, Tensor) or self.tableau.last_stage_is_solution:
            return super().advance(k)
        self.k.append(k)
        terms, known = self.terms[-1], self.k
        weights = [c * dt for _, c in terms]
        self.y1 = tuple(
            [
                _combination(
                    lambda out, step=step, slope=slope: step.finish(dt, slope.data_ptr(), out, True),
                    weights,
                    y,
                    *[known[j][p] for j, _ in terms],
                )
                for p, (step, y, slope) in enumerate(zip(self.native.steps, self.y, k, strict=True))
            ]
        )
        return self.y1

    def error(self) -> float | Tensor:
        return self.native.error_at(self.y1, self.k[-1])
