"""Replay of a step along a grid: the step on a tape, and one vector-Jacobian product."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fixed_grid import between, stage_times
from ..run import make_stepper
from .sweep import KeptStep, Replay, Sweep


class GridReplay(Replay):
    """Steps of any one-step method: explicit tableaus and implicit ones alike."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        problem = sweep.problem
        problem.needs_tape = True
        self.options = sweep.request.options
        with torch.enable_grad():
            self.stepper = make_stepper(sweep.request, problem, sweep.engine)
            self.t = sweep.t.clone().requires_grad_() if sweep.t_grad else sweep.t
            self.points = sweep.request.with_state(problem.y0, self.t).grid(problem)
        self.grad_points = torch.zeros_like(self.points)

    @torch.enable_grad()
    def step(
        self, n: int, step: KeptStep, inside: list[int], cotangent: list[Tensor], carry: list[Tensor] | None
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        sweep, problem = self.sweep, self.sweep.problem
        y = tuple([p.detach().requires_grad_() for p in step.y])
        ends = self.points.detach()[n : n + 2].clone().requires_grad_(sweep.t_grad)
        wanted = sweep.t[inside].requires_grad_(sweep.t_grad)
        row = stage_times(
            problem, ends[:1], ends[1:] - ends[:1], ends[1:], self.stepper.nodes, self.options.get("perturb", False)
        )[0]
        t0, dt, t1 = (ends[0], ends[1] - ends[0], ends[1]) if sweep.t_grad else (step.t, step.dt, step.t1)
        y1, f0 = self.stepper.step(t0, dt, t1, row.unbind(0), y)
        outputs, cotangents = list(y1), list(cotangent)
        interp = self.options.get("interp", "linear")
        for j, i in enumerate(inside):
            t = wanted[j] if sweep.t_grad else sweep.times[i]
            outputs += between(problem, self.stepper, interp, t0, dt, t1, y, y1, f0, t)
            cotangents += sweep.grads[i]
        inputs = [*y, ends, wanted] if sweep.t_grad else list(y)
        found = sweep.pull_back(outputs, cotangents, inputs)
        if sweep.grad_t is not None:
            self.grad_points[n : n + 2] += found[len(y)]
            sweep.grad_t[inside] += found[len(y) + 1]
        return found[: len(y)], None

    def finish(self) -> None:
        if self.sweep.grad_t is not None and self.points.requires_grad:
            (found,) = torch.autograd.grad(self.points, self.t, self.grad_points, allow_unused=True)
            if found is not None:
                self.sweep.grad_t += found
