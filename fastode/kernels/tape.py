"""Steps under a tape: one autograd node around the kernel of a stage, and one kernel in the backward pass of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor

from ..tree import Parts
from .binding import Binding
from .torch_step import TorchStep


class Transposed(ABC):
    """What the backward pass of one part in one step shares: the cotangents of its stages.

    With ``z_i = y + dt sum_j a_ij k_j`` (and the new state as the last ``z``) the cotangents are

        k_bar_j = dt sum_{i > j} a_ij z_bar_i,      y_bar = sum_i z_bar_i

    Each is one kernel over the cotangents already there, where edges from every slope to every later stage would make
    autograd scale and add them one by one.
    """

    __slots__ = ("dt", "first", "passes", "rows")

    def __init__(self, rows: Sequence[Sequence[float]], dt: float) -> None:
        self.rows = rows
        self.dt = dt
        #: the first stage with a node: the only one with an edge to ``y``
        self.first = 0
        #: the backward passes that are under way
        self.passes: dict[int, _Cotangents] = {}

    @abstractmethod
    def state(self, step: Any, i: int, before: Tensor, k: Tensor) -> Tensor:
        """``z_i`` of the engine's ``step``, given the last slope; shaped as ``before``. Not recorded."""

    @abstractmethod
    def weighted_sum(self, bars: list[Tensor], weights: list[float]) -> Tensor:
        """``dt sum_j weights[j] bars[j]``, of at least one, contiguous. Not recorded."""

    @abstractmethod
    def plain_sum(self, bars: list[Tensor]) -> Tensor:
        """``sum_j bars[j]``, of at least one, contiguous. Not recorded."""

    def slope(self, j: int, known: _Cotangents) -> Tensor | None:
        """The cotangent of slope ``j``."""
        rows = self.rows
        bars, weights = [], []
        for i, bar in zip(known.stages, known.bars):  # noqa: B905
            weight = rows[i][j]
            if weight:
                bars.append(bar)
                weights.append(weight)
        if not bars:
            return None
        if known.plain:
            return self.weighted_sum(bars, weights)
        return _sum([bar * (self.dt * w) for bar, w in zip(bars, weights, strict=True)])

    def start(self, known: _Cotangents) -> Tensor | None:
        """The cotangent of ``y``."""
        if not known.bars:
            return None
        return self.plain_sum(known.bars) if known.plain else _sum(known.bars)


def _sum(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for x in tensors[1:]:
        total = total + x
    return total


class _Cotangents:
    """The stages that a backward pass has visited in one step, last to first, with their cotangents."""

    __slots__ = ("bars", "plain", "stages")

    def __init__(self) -> None:
        self.stages: list[int] = []
        self.bars: list[Tensor] = []
        #: whether a kernel may sum them: their addresses are known and the sum need not be differentiable
        self.plain = True

    def add(self, i: int, bar: Tensor) -> None:
        self.stages.append(i)
        self.bars.append(bar)
        batched = is_functorch_wrapped_tensor(bar) or is_legacy_batchedtensor(bar)
        if bar.requires_grad or type(bar) is not Tensor or batched:
            self.plain = False
        elif not bar.is_contiguous():
            self.bars[-1] = bar.contiguous()


class _Stage(torch.autograd.Function):
    """``z_i``, from the slope before it. Its input ``before`` is ``z_{i-1}``, or ``y`` for the first node of a step.

    ``z_i`` does not depend on ``z_{i-1}``, whose cotangent is None: the edge makes every backward pass visit the stages
    from the last to the first, so that a node finds the cotangents of all later stages.
    The backward is made of differentiable operators where asked, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, step: Any, shared: Transposed, i: int, before: Tensor, k: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared, ctx.i = shared, i
        return shared.state(step, i, before, k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        shared, i, task = ctx.shared, ctx.i, torch._C._current_graph_task_id()
        known = shared.passes.get(task)
        if known is None:
            known = shared.passes[task] = _Cotangents()
        if grad is not None:
            known.add(i, grad)
        _, _, _, onwards, to_slope = ctx.needs_input_grad
        slope = shared.slope(i - 1, known) if to_slope else None
        if onwards and i > shared.first:
            return None, None, None, None, slope
        del shared.passes[task]  # this pass goes no further down the chain
        return None, None, None, shared.start(known) if onwards else None, slope


# torch.autograd.Function.apply looks for function transforms first, which costs as much as the kernel; under a
# transform no engine with kernels serves.
_stage = super(torch.autograd.Function, _Stage).apply


class TapeStep(TorchStep):
    """:class:`~fastode.kernels.torch_step.TorchStep` with an engine's kernels inside.

    A step is a chain of nodes, one a stage, with two edges each (:class:`_Stage`). It saves the passes over memory that
    torch's operators make, and it has the bits of the solve without gradients. A step size that is a tensor (a gradient
    of time on a fixed grid) goes through torch's operators.

    Attributes:
        shared: what the backward pass of the present step shares, one for each part.
        steps: what the engine computes the stages of each part from.
    """

    engine = "autograd"

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        #: weights of the slopes in each stage, and last in the new state
        self.table = (*self.tableau.matrix, self.tableau.weights)
        self.shared: Sequence[Transposed] = []
        self.steps: Sequence[Any] = []

    def stage(self, i: int, k: Parts) -> Parts:
        if isinstance(self.dt, Tensor):
            return super().stage(i, k)
        return self._node(i, k)

    def advance(self, k: Parts) -> Parts:
        if isinstance(self.dt, Tensor) or self.tableau.last_stage_is_solution:
            return super().advance(k)
        return self._node(len(self.table) - 1, k)

    def _node(self, i: int, k: Parts) -> Parts:
        self.k.append(k)
        before = self.y1
        if not self.shared[0].first:
            before = self.y
            for shared in self.shared:
                shared.first = i
        self.y1 = tuple([_stage(*of_part) for of_part in zip(self.steps, self.shared, repeat(i), before, k)])
        return self.y1
