"""The backward sweep over kept steps, last to first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..options import Request
from ..stats import new_stats
from ..tree import Parts
from .node import filled, pull_back


@dataclass
class KeptStep:
    """An accepted step as the backward sweep needs it.

    Attributes:
        t, dt, t1: start, signed size and end, in units of t.
        y: the state at the start.
        outputs: indices of the requested times inside the step or at its end.
        k_first: the first slope, kept only for methods that reuse a last stage which is not at the new state.
        fresh: the first slope was evaluated at ``t`` itself: in the first step, or just after a jump.
        after_jump: the step starts at a jump.
    """

    t: float
    dt: float
    t1: float
    y: Parts
    outputs: list[int] = field(default_factory=list)
    k_first: Parts | None = None
    fresh: bool = True
    after_jump: bool = False


class Sweep:
    """Cotangents of the inputs from those of the outputs.

    Args:
        steps: in the order in which they were taken.
        t: [T] the requested times; y0, params: the other inputs.
        t_grad: whether a gradient of ``t`` is wanted.
        grads: for each requested time the cotangent of each part.
    """

    def __init__(
        self,
        request: Request,
        steps: list[KeptStep],
        t: Tensor,
        y0: Parts,
        params: tuple[Tensor, ...],
        t_grad: bool,
        grads: list[tuple[Tensor, ...]],
    ) -> None:
        with torch.no_grad():
            self.problem = request.with_state(y0, t.detach()).problem(new_stats(request.method_name, "backward"))
        self.request = request
        self.steps = steps
        self.t = t.detach()
        self.times = self.problem.times()
        self.params = params
        self.grads = grads
        self.t_grad = t_grad
        self.grad_t = torch.zeros_like(t) if t_grad else None
        self.grad_params = [torch.zeros_like(p) for p in params]
        self.engine = request.engine(self.problem.stats)

    def run(self, replay: Replay) -> list[Tensor]:
        """The cotangent of each part of ``y0``; those of times and parameters are in ``grad_t`` and ``grad_params``."""
        cotangent = [torch.zeros_like(p) for p in self.problem.y0]
        carry: list[Tensor] | None = None
        while self.steps:
            step = self.steps.pop()  # its state is not needed after this
            self.problem.stats.n_accepted += 1
            inside = []
            for i in step.outputs:
                if self.times[i] == step.t1 and not self.t_grad:
                    cotangent = [c + g for c, g in zip(cotangent, self.grads[i], strict=True)]
                else:
                    inside.append(i)
            cotangent, carry = replay.step(len(self.steps), step, inside, cotangent, carry)
        replay.finish()
        return [c + g for c, g in zip(cotangent, self.grads[0], strict=True)]

    def pull_back(
        self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """Cotangents of ``inputs``; those of the parameters are added to ``grad_params``."""
        found = pull_back(outputs, (*inputs, *self.params), cotangents)
        n = len(inputs)
        hit = [(g, a) for g, a in zip(found[n:], self.grad_params, strict=True) if g is not None]
        if hit:
            values, sums = zip(*hit, strict=True)
            torch._foreach_add_(sums, values)
        return filled(found[:n], inputs)


class Replay:
    """Replays single steps."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def step(
        self, n: int, step: KeptStep, inside: list[int], cotangent: list[Tensor], carry: list[Tensor] | None
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Cotangents of the state at the start of step ``n`` and of its first slope (if that was another step's last).

        Args:
            inside: outputs interpolated in the step.
            cotangent: of the state at its end.
            carry: of its last slope, where the next step started with it.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """After the first step was replayed."""
