"""Run a request for a solution as a function of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .dense import DenseSolution
from .errors import InvalidArgument
from .fixed_grid import integrate_grid
from .kernels.reference import QUARTIC
from .loop import Step, integrate
from .methods import ExternalMethod
from .options import Request
from .problem import Problem
from .run import first_step, make_stepper, refuse_without_data
from .tableau import ButcherTableau
from .tree import Parts


class DenseRecorder:
    """Keeps the polynomial of every accepted step up to the end time."""

    def __init__(self, t0: float, t1: float, direction: float, b_mid: Sequence[float]) -> None:
        self.ends = [t0]
        self.end = direction * t1
        self.direction = direction
        self.b_mid = b_mid
        self.coefficients: list[list[Parts]] = []

    def start(self, t: float, y: Parts) -> bool:
        return False

    def accepted(self, step: Step) -> bool:
        self.ends.append(step.t1)
        self.coefficients.append(quartic(step, self.b_mid))
        return bool(self.direction * step.t1 >= self.end)


def quartic(step: Step, b_mid: Sequence[float]) -> list[Parts]:
    """Coefficients of ``1, x, .., x^4`` of the dense output (see :mod:`fastode.kernels.reference.interpolate`)."""
    kernels, dt = step.kernels, step.dt
    y, y1, k = step.y, step.y1, kernels.k
    difference = kernels.combine(y1, [y], [-1.0])
    zero = kernels.combine(y, [y], [-1.0])
    first, last, middle, end = QUARTIC
    out: list[Parts] = [y]
    for power in range(1, 5):
        weights = [dt * m * (16 * middle[power]) for m in b_mid]
        weights[0] += dt * first[power]
        weights[-1] += dt * last[power]
        out.append(kernels.combine(zero, [difference, *k], [end[power], *weights]))
    return out


def dense_solution(request: Request) -> DenseSolution:
    """What ``odeint_dense`` returns.

    Raises:
        InvalidArgument: the method is integrated by another library.
    """
    problem = request.problem()
    method = request.method
    if isinstance(method, ExternalMethod):
        raise InvalidArgument(
            f"method={request.method_name!r} has no dense output; use an adaptive or fixed-grid method"
        )
    engine = request.engine(problem.stats)
    t0, t1 = problem.times()
    if isinstance(method, ButcherTableau) and method.adaptive:
        refuse_without_data(problem)
        clock = request.clock(problem)
        recorder = DenseRecorder(t0, t1, problem.direction, method.mid_weights)
        integrate(problem, method, engine, clock, recorder, first_step=first_step(request))
        moving = None if problem.anchor is None else problem.anchor.expand(len(recorder.ends))
        return _joined(problem, recorder.ends, recorder.coefficients, moving)
    return _dense_grid(request, problem, make_stepper(request, problem, engine))


def _dense_grid(request: Request, problem: Problem, stepper: Any) -> DenseSolution:
    """Linear or cubic Hermite pieces between the points of the grid."""
    cubic = request.options.get("interp", "linear") == "cubic"
    grid = request.grid(problem)
    ends: list[float] = grid.tolist()
    pieces: list[tuple[Any, Parts, Parts]] = []
    inner = stepper.step

    def step(t0: Any, dt: Any, t1: Any, times: Any, y: Parts) -> tuple[Parts, Parts]:
        y1, f0 = inner(t0, dt, t1, times, y)
        pieces.append((dt, y, f0))
        return y1, f0

    stepper.step = step
    time_dtype = problem.real_dtype
    last = integrate_grid(problem, stepper, grid, perturb=request.options.get("perturb", False))[-1]
    coefficients = []
    for i, (dt, y, f0) in enumerate(pieces):
        y1 = pieces[i + 1][1] if i + 1 < len(pieces) else last
        difference = tuple(b - a for a, b in zip(y, y1, strict=True))
        if not cubic:
            coefficients.append([y, difference])
            continue
        f1 = pieces[i + 1][2] if i + 1 < len(pieces) else problem.field(grid[-1].to(last[0].device, time_dtype), last)
        h0 = tuple(dt * f for f in f0)
        h1 = tuple(dt * f for f in f1)
        square = tuple(3 * d - 2 * a - b for d, a, b in zip(difference, h0, h1, strict=True))
        cube = tuple(a + b - 2 * d for d, a, b in zip(difference, h0, h1, strict=True))
        coefficients.append([y, h0, square, cube])
    moving = grid - grid.detach() if torch.is_grad_enabled() and grid.requires_grad else None
    return _joined(problem, ends, coefficients, moving)


def _joined(
    problem: Problem, ends: list[float], coefficients: list[list[Parts]], moving: Tensor | None
) -> DenseSolution:
    """The solution of steps whose coefficients come one by one, lowest power first."""
    stacked = [
        torch.stack([torch.stack([c[p] for c in step]) for step in coefficients]) for p in range(len(problem.y0))
    ]
    return DenseSolution(
        ends, tuple(stacked), round_time=problem.round_time, restore=problem.restore_state, moving=moving
    )
