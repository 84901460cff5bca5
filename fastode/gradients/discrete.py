"""The exact gradient of the discrete solution, one autograd node around the solve.

Forward: no tape; the accepted ``(t, dt, y)`` are kept, one state a step. Backward: steps are replayed last to first and
the cotangent of ``y1`` (and of the outputs inside the step) is taken to ``y``, times and parameters:

    lambda_n = (d y_{n+1} / d y_n)^T lambda_{n+1} + sum_{outputs in step n} (d out / d y_n)^T g_out

Parameter gradients are sums outside any error control. Step sizes are constants, as in ``odeint``.
Reference: Zhuang et al., "Adaptive checkpoint adjoint for gradient estimation in neural ODE", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..clock import LockstepClock
from ..errors import InvalidArgument
from ..fixed_grid import integrate_grid
from ..loop import Step, integrate
from ..methods import ExternalMethod, GridMethod
from ..observers import Outputs
from ..options import Request, Settings
from ..problem import Problem
from ..run import EventFn, first_step, make_stepper, refuse_without_data
from ..tableau import ButcherTableau
from ..tree import Parts
from .grid_replay import GridReplay
from .node import Layout, differentiable_inputs, layout_of
from .stage_replay import StageReplay
from .sweep import KeptStep, Replay, Sweep


def discrete(request: Request, backward: Settings, params: Sequence[Tensor], event_fn: EventFn | None) -> Any:
    """``odeint_adjoint(..., gradient="discrete")``; settings of a backward solve do not apply.

    Raises:
        InvalidArgument: the method has no steps that can be replayed one by one, or an event is asked for.
    """
    method = request.method
    if isinstance(method, ExternalMethod):
        raise InvalidArgument(
            f"gradient='discrete' cannot replay method={request.method_name!r}; use gradient='backsolve'"
        )
    if isinstance(method, GridMethod) and "max_order" in (method.options or ()):
        raise InvalidArgument(
            f"gradient='discrete' replays single steps, but {request.method_name!r} is a multistep method; use "
            "gradient='backsolve', or odeint"
        )
    if event_fn is not None:
        raise InvalidArgument("gradient='discrete' does not handle `event_fn`; use gradient='backsolve', or odeint")
    inputs = differentiable_inputs(request, params)
    layout = layout_of(request)
    joined = _DiscreteSolve.apply(request, layout, request.t, len(request.y0), *request.y0, *inputs)
    return layout.restore(joined)


class _DiscreteSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, request: Request, layout: Layout, t: Tensor, n_parts: int, *tensors: Tensor) -> Tensor:
        ctx.request, ctx.layout, ctx.n_parts = request, layout, n_parts
        y0 = tuple([p.detach() for p in tensors[:n_parts]])
        problem = request.with_state(y0, t.detach()).problem()
        record = _record_adaptive if request.adaptive else _record_grid
        states, ctx.steps = record(request.with_state(y0, t.detach()), problem)
        ctx.save_for_backward(t, *tensors)
        return layout.join(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        t, *tensors = ctx.saved_tensors
        y0, params = tuple(tensors[: ctx.n_parts]), tuple(tensors[ctx.n_parts :])
        grads = list(zip(*ctx.layout.split(grad), strict=True))
        sweep = Sweep(ctx.request, list(ctx.steps), t, y0, params, ctx.needs_input_grad[2], grads)
        replay: Replay = StageReplay(sweep) if ctx.request.adaptive else GridReplay(sweep)
        cotangent = sweep.run(replay)
        return None, None, sweep.grad_t, None, *cotangent, *sweep.grad_params


class _Recorder(Outputs):
    """Outputs, and the steps that made them."""

    keeps_steps = True

    def __init__(self, problem: Problem, clock: LockstepClock, keep_slope: bool) -> None:
        super().__init__(problem, clock)
        self.steps: list[KeptStep] = []
        self.keep_slope = keep_slope
        self.jumped = False

    def accepted(self, step: Step) -> bool:
        before = len(self.states)
        done = super().accepted(step)
        slope = tuple([k.detach().clone() for k in step.k_first]) if self.keep_slope else None
        self.steps.append(
            KeptStep(
                step.t,
                step.dt,
                step.t1,
                step.y,
                list(range(before, len(self.states))),
                slope,
                fresh=self.jumped or not self.steps,
                after_jump=self.jumped,
            )
        )
        self.jumped = self.clock.on_jump
        return done

    def take_steps(self, numbers: list[list[float]], states: list[Parts], jumps: set[float]) -> None:
        for (t, dt, t1, first, last), y in zip(numbers, states, strict=True):
            # outputs are counted from the first after the start
            inside = list(range(int(first) + 1, int(last) + 1))
            self.steps.append(
                KeptStep(t, dt, t1, y, inside, None, fresh=not self.steps or t in jumps, after_jump=t in jumps)
            )


def _record_adaptive(request: Request, problem: Problem) -> tuple[list[Parts], list[KeptStep]]:
    refuse_without_data(problem)
    tableau = request.method
    assert isinstance(tableau, ButcherTableau)
    engine = request.engine(problem.stats)
    clock = request.clock(problem)
    recorder = _Recorder(problem, clock, keep_slope=not tableau.last_stage_is_solution)
    integrate(problem, tableau, engine, clock, recorder, first_step=first_step(request))
    return recorder.states, recorder.steps


def _record_grid(request: Request, problem: Problem) -> tuple[list[Parts], list[KeptStep]]:
    steps: list[KeptStep] = []

    def record(t0: Any, dt: Any, t1: Any, y: Parts, outputs: list[int]) -> None:
        steps.append(KeptStep(t0, dt, t1, y, outputs))

    states = integrate_grid(
        problem,
        make_stepper(request, problem, request.engine(problem.stats)),
        request.grid(problem),
        interp=request.options.get("interp", "linear"),
        perturb=request.options.get("perturb", False),
        record=record,
    )
    return states, steps
