"""Methods that step along a grid which is known beforehand: explicit tableaus here, other families in ``methods``.

Steps follow the grid; outputs between its points are interpolated linearly (torchdiffeq's default) or by the cubic
Hermite polynomial through both ends (``options={"interp": "cubic"}``, one evaluation more per output).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import InvalidArgument, TooManySteps
from .kernels import Engine
from .kernels.native import NativeStep
from .kernels.reference.combine import Weight
from .kernels.torch_step import TorchStep
from .observers import EventFunction, bisect
from .perturb import nextafter
from .problem import Problem
from .tableau import ButcherTableau
from .tree import Parts

MAX_EVENT_STEPS = 20000
_CHUNK = 256  # grid points whose stage times are made at once


class GridStepper(Protocol):
    """One step of a fixed-grid method."""

    @property
    def nodes(self) -> Sequence[float]:
        """Fractions of the step at which :meth:`step` wants times; 1 is the end of the step."""

    def step(self, t0: Weight, dt: Weight, t1: Weight, times: Sequence[Tensor], y: Parts) -> tuple[Parts, Parts]:
        """``(y1, f0)``: the state at ``t1`` and the slope at ``t0``.

        Args:
            t0, dt, t1: numbers, or 0-dim tensors where a gradient of time is wanted; ``dt`` is signed.
            times: one 0-dim tensor for each node, as the field wants them.
        """

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: list[Weight]) -> Parts:
        """``base + sum_j weights[j] * vectors[j]``, recorded for autograd where that is needed."""


class ExplicitStepper:
    """An explicit tableau on a grid."""

    def __init__(self, problem: Problem, engine: Engine, tableau: ButcherTableau) -> None:
        self.problem = problem
        self.tableau = tableau
        self.nodes = tableau.nodes
        self.kernels: TorchStep | NativeStep = engine.bind(problem.binding(tableau))
        if problem.needs_tape:
            self._to_tape()
        problem.stats.engine = self.kernels.engine

    def _to_tape(self) -> None:
        self.kernels = self.kernels.to_tape()
        self.problem.stats.engine = self.kernels.engine

    def step(self, t0: Weight, dt: Weight, t1: Weight, times: Sequence[Tensor], y: Parts) -> tuple[Parts, Parts]:
        field = self.problem.field
        f0 = k = field(times[0], y)
        if field.traced and not self.kernels.differentiable:
            self._to_tape()
        self.kernels.begin_at(y, dt)  # type: ignore[arg-type]
        for i in range(1, self.tableau.stages):
            k = field(times[i], self.kernels.stage(i, k))
            if field.traced and not self.kernels.differentiable:
                self._to_tape()
        return self.kernels.advance(k), f0

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: list[Weight]) -> Parts:
        return self.kernels.combine(base, vectors, weights)


def number(x: Weight) -> float:
    """The value of a time that may require grad, which ``float`` would warn of."""
    return float(x.detach()) if isinstance(x, Tensor) else x


def grid_from_step_size(step_size: float | Tensor, t: Tensor, direction: float) -> Tensor:
    """Points ``step_size`` apart from ``t[0]``, the last one ``t[-1]``."""
    start, end = t[0], t[-1]
    count = math.ceil(number(direction * (end - start) / step_size + 1))
    grid = torch.arange(0, count, dtype=t.dtype, device=t.device) * (direction * step_size) + start
    return torch.cat([grid[:-1], t[-1:]])


class Grid:
    """The points, step sizes and stage times of a solve."""

    def __init__(self, problem: Problem, points: Tensor, nodes: Sequence[float], perturb: bool) -> None:
        ends = problem.t[0], problem.t[-1]
        if not isinstance(points, Tensor):
            raise InvalidArgument(
                f"options['grid_constructor'] must return a 1-D tensor of times, but returned a {type(points).__name__}"
            )
        if points.ndim != 1 or not len(points) or bool(points[0] != ends[0]) or bool(points[-1] != ends[1]):
            raise InvalidArgument(
                f"options['grid_constructor'] must return a 1-D tensor from t[0]={number(ends[0])} to "
                f"t[-1]={number(ends[1])}, but it runs from {points.reshape(-1)[:1].tolist()} to "
                f"{points.reshape(-1)[-1:].tolist()}"
            )
        self.problem = problem
        self.points = points
        self.nodes = nodes
        self.perturb = perturb
        self.differentiable = torch.is_grad_enabled() and points.requires_grad

    def __iter__(self) -> Iterator[tuple[Weight, Weight, Weight, Sequence[Tensor]]]:
        """``(t0, dt, t1, times)`` of every step."""
        starts, ends = self.points[:-1], self.points[1:]
        sizes = ends - starts
        for at in range(0, len(starts), _CHUNK):
            chunk = slice(at, at + _CHUNK)
            times = stage_times(self.problem, starts[chunk], sizes[chunk], ends[chunk], self.nodes, self.perturb)
            columns = (x[chunk].unbind(0) if self.differentiable else x[chunk].tolist() for x in (starts, sizes, ends))
            for t0, dt, t1, row in zip(*columns, times.unbind(0), strict=True):
                yield t0, dt, t1, row.unbind(0)


def stage_times(problem: Problem, t0: Tensor, dt: Tensor, t1: Tensor, nodes: Sequence[float], perturb: bool) -> Tensor:
    """Times [n, S] of the stages of n steps, in the real dtype of the state; the ends moved inwards by one unit in the
    last place if ``perturb``."""
    c = torch.tensor(nodes, dtype=t0.dtype, device=t0.device)
    times = torch.where(c == 1, t1[:, None], t0[:, None] + dt[:, None] * c)
    times = times.to(device=problem.y0[0].device, dtype=problem.real_dtype)
    if perturb:
        c = c.to(times.device)
        times = torch.where(c == 0, nextafter(times, problem.direction), times)
        times = torch.where(c == 1, nextafter(times, -problem.direction), times)
    return times


def integrate_grid(
    problem: Problem,
    stepper: GridStepper,
    points: Tensor,
    *,
    interp: str = "linear",
    perturb: bool = False,
    record: Callable[[Any, Any, Any, Parts, list[int]], None] | None = None,
) -> list[Parts]:
    """States at the requested times.

    Args:
        points: [n] the grid, from ``t[0]`` to ``t[-1]``.
        interp: ``"linear"`` or ``"cubic"``.
        perturb: evaluate just inside the ends of every step.
        record: called with ``(t0, dt, t1, y, outputs)`` after every step; the outputs' indices.

    Raises:
        InvalidArgument: the grid does not end where the times do, or ``interp`` is unknown.
    """
    grid = Grid(problem, points, stepper.nodes, perturb)
    t: Sequence[Weight] = problem.t.unbind(0) if grid.differentiable else problem.t.tolist()
    wanted: list[float] = problem.t.tolist()
    on_step = problem.callbacks[0]
    direction = problem.direction
    y = problem.y0
    states = [y]
    for t0, dt, t1, times in grid:
        if on_step:
            on_step(problem.time_value(number(t0)), problem.restore_state(y), problem.time_value(abs(number(dt))))
        y1, f0 = stepper.step(t0, dt, t1, times, y)
        problem.stats.n_accepted += 1
        end = direction * number(t1)
        before = len(states)
        while len(states) < len(wanted) and end >= direction * wanted[len(states)]:
            states.append(between(problem, stepper, interp, t0, dt, t1, y, y1, f0, t[len(states)]))
        if record is not None:
            record(t0, dt, t1, y, list(range(before, len(states))))
        y = y1
    problem.stats.t = wanted[-1]
    return states


def fraction(problem: Problem, t0: Weight, t1: Weight, t: Weight) -> Weight:
    """``(t - t0) / (t1 - t0)`` in the dtype of time, as torchdiffeq computes it."""
    if isinstance(t, Tensor) or isinstance(t0, Tensor) or isinstance(t1, Tensor):
        return (t - t0) / (t1 - t0)
    rounded = problem.round_time
    return rounded(rounded(t - t0) / rounded(t1 - t0))


def between(
    problem: Problem,
    stepper: GridStepper,
    interp: str,
    t0: Weight,
    dt: Weight,
    t1: Weight,
    y: Parts,
    y1: Parts,
    f0: Parts,
    t: Weight,
) -> Parts:
    """The state at ``t`` in ``[t0, t1]``."""
    if interp == "linear":
        if t == t0:
            return y
        if t == t1:
            return y1
        x = fraction(problem, t0, t1, t)
        return stepper.combine(y, [y1, y], [x, -x])
    if interp == "cubic":
        end = t1 if isinstance(t1, Tensor) else torch.tensor(t1, dtype=torch.float64)
        f1 = problem.field(end.to(problem.y0[0].device, problem.real_dtype), y1)
        x = fraction(problem, t0, t1, t)
        back = x * (1 - x)
        w = x * x * (3 - 2 * x)
        return stepper.combine(y, [y1, y, f0, f1], [w, -w, dt * (back * (1 - x)), dt * (-back * x)])
    raise InvalidArgument(f"Unknown interpolation method {interp}: options['interp'] must be 'linear' or 'cubic'")


def integrate_grid_until_event(
    problem: Problem,
    stepper: GridStepper,
    step_size: float,
    event: EventFunction,
    tolerance: float,
    *,
    interp: str = "linear",
    perturb: bool = False,
) -> tuple[float, Parts]:
    """Step by ``step_size`` until ``event`` changes sign; the time of the root, and the state there.

    Raises:
        TooManySteps: no root within :data:`MAX_EVENT_STEPS` steps.
    """
    y = problem.y0
    t0 = problem.round_state(number(problem.t[0]))
    dt = problem.direction * float(step_size)
    sign0 = event.sign(t0, y)
    if sign0 == 0:
        return t0, y
    on_step, anchor = problem.callbacks[0], problem.anchor
    for _ in range(MAX_EVENT_STEPS):
        t1 = problem.round_state(t0 + dt)
        if on_step:
            on_step(problem.time_value(t0), problem.restore_state(y), problem.time_value(abs(dt)))
        start, size, end = (torch.tensor([v], dtype=problem.real_dtype, device=y[0].device) for v in (t0, dt, t1))
        times = stage_times(problem, start, size, end, stepper.nodes, perturb)[0]
        if anchor is not None:
            times = times + anchor
        y1, f0 = stepper.step(t0, dt, t1, times.unbind(0), y)
        problem.stats.n_accepted += 1
        if event.sign(t1, y1) != sign0:

            def state(t: float, t0: float = t0, t1: float = t1, y: Parts = y, y1: Parts = y1, f0: Parts = f0) -> Parts:
                return between(problem, stepper, interp, t0, t1 - t0, t1, y, y1, f0, t)

            root = bisect(lambda t: event.sign(t, state(t)) == sign0, t0, t1, tolerance)
            if anchor is None:
                return root, state(root)
            # the root stays where it is when the start, and every step with it, moves
            ends = t0 + anchor, t1 + anchor
            return root, between(problem, stepper, interp, ends[0], t1 - t0, ends[1], y, y1, f0, root)
        t0, y = t1, y1
    raise TooManySteps(
        f"Reached maximum number of iterations {MAX_EVENT_STEPS}. No event before t={t0:.6g}; "
        "raise options['step_size'] or check `event_fn`."
    )
