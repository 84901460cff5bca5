"""The step loop of adaptive explicit Runge-Kutta methods.

    propose dt -> S - 1 stages and evaluations -> new state and error norm -> accept or reject -> outputs

Reading order: :mod:`fastode.problem`, this file, :mod:`fastode.kernels.reference`, :mod:`fastode.methods.bosh3`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from .clock import LockstepClock
from .controller import Controller, initial_step
from .field import Field
from .kernels import Engine
from .kernels.native import NativeStep
from .kernels.torch_step import TorchStep
from .problem import Problem, check_finite
from .rows.clock import RowsClock, choose_first_steps
from .tableau import ButcherTableau
from .tree import Parts

if TYPE_CHECKING:
    from .observers import Outputs

Kernels = TorchStep | NativeStep


class Step:
    """An accepted step, as observers see it. Valid until the observer returns.

    Attributes:
        t, t1: start and end; dt: ``t1 - t``, signed. In units of t.
        y, y1: states at both ends.
        kernels: hold the slopes and interpolate.
        k_first: the slope at ``y``.
        accept: True, or the rows that accepted.
        y_next: the state to go on with: ``y1``, but in rows that stop inside the step.
    """

    __slots__ = ("accept", "dt", "k_first", "kernels", "t", "t1", "y", "y1", "y_next")

    def __init__(
        self, t: Any, dt: Any, t1: Any, y: Parts, y1: Parts, kernels: Kernels, k_first: Parts, accept: bool | Tensor
    ) -> None:
        self.t, self.dt, self.t1 = t, dt, t1
        self.y = y
        self.y1 = self.y_next = y1
        self.kernels = kernels
        self.k_first = k_first
        self.accept = accept

    def end_at(self, rows: Tensor, y: Parts) -> None:
        """``rows`` stop inside the step, with the states ``y``."""
        if len(rows):
            self.y_next = tuple([p.index_copy(0, rows, q) for p, q in zip(self.y1, y, strict=True)])

    def at(self, t: float | Tensor) -> Parts:
        """The state at ``t`` between the step's ends; the new state itself at its end."""
        if isinstance(t, Tensor):
            return self.kernels.interpolate((t - self.t) / self.dt)
        return self.y1 if t == self.t1 else self.kernels.interpolate((t - self.t) / (self.t1 - self.t))


class Clock(Protocol):
    """Where a solve is in time: numbers in lockstep, tensors [R] where every row has its own step.

    Attributes:
        t, dt: time and size of the next step, in units of t.
        running: False when there is nothing left to step.
    """

    controller: Controller

    @property
    def t(self) -> Any: ...

    @property
    def dt(self) -> Any: ...

    @property
    def running(self) -> bool: ...

    def propose(self) -> tuple[Any, Any, Any]:
        """``(t, dt, t1)`` of the next attempt."""

    def judge(self, err: Any) -> Any:
        """Whether the attempt (each row's) is accepted; moves on in time."""

    def select(self, accept: Any, new: Parts, old: Parts) -> Parts:
        """What the attempt commits."""

    def end(self, y: Parts) -> None:
        """The solve is over, at ``y``; the account is completed."""


class Observer(Protocol):
    """What is made of a solve: outputs, an event, a dense solution, a tape of steps."""

    def start(self, t: Any, y: Parts) -> bool:
        """The solve begins; True ends it at once."""

    def accepted(self, step: Step) -> bool:
        """A step was accepted; True ends the solve."""


def integrate(
    problem: Problem,
    tableau: ButcherTableau,
    engine: Engine,
    clock: Clock,
    observer: Observer,
    *,
    first_step: float | None = None,
    jump: Callable[[Any, Parts], Parts] | None = None,
) -> None:
    """Integrate ``problem`` until ``observer`` has what it wants.

    Args:
        tableau: an explicit method with an error estimate and a midpoint.
        engine: the kernels.
        clock: time, step size and controller; of all rows in lockstep, or of each row its own.
        first_step: size of the first step; by default Hairer's heuristic (one evaluation). Rows have theirs in
            the clock.
        jump: called with ``(t, y)`` where the clock's ``jump_t`` is reached; returns the state to go on with. With rows
            the first argument is the positions of those at a jump.

    Raises:
        NonFiniteState, StepSizeUnderflow, TooManySteps: the solve cannot go on.
    """
    field, y = problem.field, problem.y0
    rows = len(clock.t) if isinstance(clock, RowsClock) else None
    k0 = field(problem.time(clock.t), y)
    if isinstance(clock, LockstepClock) and engine.on_device:
        from .device import lockstep

        reason = lockstep.refusal(problem, tableau, clock, observer)
        if not reason:
            reason = lockstep.integrate(
                problem, tableau, clock, cast("Outputs", observer), k0, first_step, jump, engine.no_graph
            )
        if not reason:
            return
        problem.stats.reason = engine.leave_device(reason)
    kernels = engine.bind(problem.binding(tableau, rows))
    if isinstance(clock, RowsClock):
        if clock.undecided:
            k0 = choose_first_steps(problem, tableau, clock, k0)
        clock.begin()
    elif isinstance(clock, LockstepClock):
        if first_step is None:
            clock.dt, k0 = _first_step(problem, tableau, kernels, clock, k0)
        else:
            check_finite(y, clock.t)
            clock.dt = first_step
    if field.traced or problem.needs_tape:
        kernels = _to_tape(kernels, problem)
    problem.stats.engine = kernels.engine
    done = observer.start(clock.t, y)
    stages = tableau.stages
    on_step, on_accept, on_reject = problem.callbacks
    while not done and clock.running:
        if on_step:
            on_step(
                problem.time_value(clock.t),
                problem.restore_state(y),
                problem.time_value(clock.controller.clamp(clock.dt)),
            )
        t, dt, t1 = clock.propose()
        times = kernels.begin(t, dt, t1, y)
        k = k0
        for i in range(1, stages):
            k = field(times[i], kernels.stage(i, k))
            if field.traced and not kernels.differentiable:
                kernels = _to_tape(kernels, problem)
        y1, err = kernels.finish(k)
        accept = clock.judge(err)
        if accept is True or (isinstance(clock, RowsClock) and clock.n_accepting):
            if on_accept:
                on_accept(problem.time_value(t), problem.restore_state(y), problem.time_value(abs(dt)))
            if accept is True and not err <= 1:
                check_finite(y1, t1)
            step = Step(t, dt, t1, y, y1, kernels, k0, accept)
            done = observer.accepted(step)
            y, k0 = clock.select(accept, step.y_next, y), clock.select(accept, k, k0)
            del step  # it holds buffers that the next one writes into
            if isinstance(clock, RowsClock):
                if clock.on_jump is not None and jump is not None:
                    y = jump(clock.on_jump, y)
                if not tableau.last_stage_is_solution:
                    k0 = field(clock.start_times(clock.rows, clock.t, problem.real_dtype), y)
                elif clock.on_jump is not None:
                    k0 = _slopes_after_jumps(problem, clock, clock.on_jump, y, k0)
            elif isinstance(clock, LockstepClock) and clock.on_jump and not done:
                if jump is not None:
                    y = jump(t1, y)
                k0 = field(problem.time(t1, side=1.0), y)
        elif on_reject:
            on_reject(problem.time_value(t), problem.restore_state(y), problem.time_value(abs(dt)))
        if isinstance(clock, RowsClock) and (stay := clock.compact(y)) is not None:
            problem, k0 = problem.take_rows(stay, y), tuple([p[stay] for p in k0])
            field, y = problem.field, problem.y0
            kernels = engine.bind(problem.binding(tableau, len(stay)))
    clock.end(y)


def _slopes_after_jumps(problem: Problem, clock: RowsClock, at: Tensor, y: Parts, k0: Parts) -> Parts:
    """First slopes of the next step: new ones in the rows ``at`` a jump."""
    times = clock.start_times(clock.rows, clock.t, problem.real_dtype)
    if clock.may_compact:
        part = problem.take_rows(at, y)
        fresh = part.field(times[at], part.y0)
    else:
        fresh = tuple([f[at] for f in problem.field(times, y)])
    return tuple([k.index_copy(0, at, f) for k, f in zip(k0, fresh, strict=True)])


def _to_tape(kernels: Kernels, problem: Problem) -> TorchStep:
    """Go on recording for autograd: the field's value requires grad."""
    tape = kernels.to_tape()
    problem.stats.engine = tape.engine
    return tape


def _first_step(
    problem: Problem, tableau: ButcherTableau, kernels: Kernels, clock: Clock, k0: Parts
) -> tuple[float, Parts]:
    """Hairer's first step, and the first slope (copied if the field turns out to reuse its output buffer)."""
    field, y = problem.field, problem.y0
    kept = tuple([k.detach().clone() for k in k0])
    staged = len(y) - problem.quadratures

    def probe(h0: float) -> float:
        signed = problem.direction * h0
        with torch.no_grad():
            y1 = (*kernels.combine(y[:staged], [kept], [signed]), *y[staged:])
        f1 = _without_tape(field, problem.time(clock.t + signed), y1)
        field.detect_shared_buffer(k0, f1)
        return kernels.norm_of(y, f1, kept)

    d0 = kernels.norm_of(y, y)
    if not math.isfinite(d0):
        check_finite(y, clock.t)
    d1 = kernels.norm_of(y, kept)
    dt = initial_step(d0, d1, probe, tableau.order, problem.number, problem.power)
    return dt, kept if field.copies else k0


def _without_tape(field: Field, t: Tensor, y: Parts) -> Parts:
    """An evaluation whose value only sizes a step; a tape is not kept (the field may still use autograd inside)."""
    traced = field.traced
    value = tuple([f.detach() for f in field(t, y)])
    field.traced = traced
    return value
