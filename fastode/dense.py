"""A solution as a function of time."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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


class DenseSolution:
    """Piecewise polynomials through the accepted steps.

    ``sol(t)`` takes a number or 0-dim tensor and returns a state, or a tensor ``[...]`` and returns states
    ``[..., *y0.shape]``. Gradients reach the solve's inputs and ``t``.
    """

    def __init__(
        self, problem: Problem, ends: list[float], coefficients: list[list[Parts]], moving: Tensor | None = None
    ) -> None:
        self._problem = problem
        #: [steps + 1] zeros with the gradient of the steps' ends, or None
        self._moving = moving
        self._direction = problem.direction
        self.ends = ends
        # [steps, degree + 1, *shape] for each part, lowest power first
        self._coefficients = [
            torch.stack([torch.stack([c[p] for c in step]) for step in coefficients]) for p in range(len(problem.y0))
        ]

    def __call__(self, t: Tensor | float) -> Any:
        """States at ``t``.

        Raises:
            InvalidArgument: a time lies outside the interval that was solved.
        """
        d = self._direction
        times = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        flat = times.reshape(-1)
        s = [d * self._problem.round_time(v) for v in flat.detach().to(torch.float64).tolist()]
        ends = [d * v for v in self.ends]
        if any(not ends[0] <= v <= ends[-1] for v in s):
            raise InvalidArgument(
                f"invalid interpolation, fails `t0 <= t <= t1`: the solution spans {self.ends[0]} to {self.ends[-1]}, "
                f"but t={[d * v for v in s if not ends[0] <= v <= ends[-1]][:3]}"
            )
        steps = [min(bisect.bisect_right(ends, v), len(ends) - 1) - 1 for v in s]
        x = self._fractions(flat, s, steps)
        index = torch.tensor(steps, dtype=torch.long, device=self._coefficients[0].device)
        values = [self._evaluate(c[index], x).reshape((*times.shape, *c.shape[2:])) for c in self._coefficients]
        return self._problem.restore_state(values)

    def _fractions(self, flat: Tensor, s: list[float], steps: list[int]) -> Tensor:
        """Where in its step each time lies, 0 to 1, carrying the gradient of ``t``."""
        d, dtype = self._direction, self._problem.real_dtype
        sizes = [self.ends[i + 1] - self.ends[i] for i in steps]
        exact = [(d * v - self.ends[i]) / h for v, i, h in zip(s, steps, sizes, strict=True)]
        device = self._coefficients[0].device
        x = torch.tensor(exact, dtype=dtype, device=device)
        shift: Tensor | float = 0.0
        if flat.requires_grad:
            shift = (flat - flat.detach()).to(device=device, dtype=dtype)
        if self._moving is not None:
            ends = self._moving.to(device=device, dtype=dtype)
            index = torch.tensor(steps, dtype=torch.long, device=device)
            shift = shift - torch.lerp(ends[index], ends[index + 1], x.detach())
        return x + shift / torch.tensor(sizes, dtype=dtype, device=device)

    @staticmethod
    def _evaluate(c: Tensor, x: Tensor) -> Tensor:
        """Horner over the coefficients' axis 1."""
        x = x.reshape(-1, *[1] * (c.ndim - 2))
        total = c[:, -1]
        for i in range(c.shape[1] - 2, -1, -1):
            total = total * x + c[:, i]
        return total


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
        return DenseSolution(problem, recorder.ends, recorder.coefficients, moving)
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
    return DenseSolution(problem, ends, coefficients, moving)
