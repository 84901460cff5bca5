"""What is made of the accepted steps of a solve: outputs at requested times, or the first root of an event."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .clock import LockstepClock
from .errors import FieldError
from .loop import Step
from .problem import Problem
from .tree import Parts


class Outputs:
    """The state at every requested time, by dense output where a step passed one.

    Attributes:
        keeps_steps: whether steps are wanted as well, which a solve on a device hands over at its end.
    """

    keeps_steps = False

    def __init__(self, problem: Problem, clock: LockstepClock) -> None:
        self.direction = problem.direction
        self.times = problem.times()
        self.clock = clock
        self.states: list[Parts] = [problem.y0]
        # Differentiable requested times relative to the start, which is what a step's times move with.
        self.shifts: Tensor | None = None
        if problem.anchor is not None:
            moving = problem.t - problem.t.detach()
            self.shifts = (moving - moving[0]).to(problem.real_dtype)

    def start(self, t: float, y: Parts) -> bool:
        return len(self.times) == 1

    def accepted(self, step: Step) -> bool:
        times, direction, end = self.times, self.direction, self.direction * step.t1
        i = len(self.states)
        while direction * times[i] <= end:
            self.states.append(self._state(step, i))
            self.clock.since_output = 0
            i += 1
            if i == len(times):
                return True
        return False

    def take_steps(self, numbers: list[list[float]], states: list[Parts], jumps: set[float]) -> None:
        """The accepted steps of a solve on a device: start, size, end, first output inside and that after the last of
        each, and the states at their starts; and the times of jumps."""
        raise NotImplementedError

    def _state(self, step: Step, i: int) -> Parts:
        if self.shifts is None:
            return step.at(self.times[i])
        return step.at(self.times[i] + self.shifts[i])


class EventFunction:
    """A user's event function as one number whose sign change is the event.

    Several components are multiplied by their initial signs and reduced by the minimum, so that all start positive
    and the first root of any of them is the event (torchdiffeq's rule).
    """

    def __init__(self, event_fn: Callable[..., Any], problem: Problem) -> None:
        self.event_fn = event_fn
        self.problem = problem
        self.signs: Tensor | None = None

    def combined(self, t: Tensor, state: Any) -> Tensor:
        """The differentiable 0-dim value."""
        value = self.event_fn(t, state)
        if self.signs is None:
            self.signs = self._initial_signs(value, t)
        return torch.min(value * self.signs)

    @staticmethod
    def _initial_signs(value: Any, t: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            raise FieldError(f"event_fn(t, y) returned a {type(value).__name__}; return a torch.Tensor")
        if not value.numel():
            raise FieldError("event_fn(t, y) returned a tensor without elements; return at least one")
        if bool(value.isnan().any()):
            raise FieldError(f"event_fn(t, y) is NaN at the initial time {float(t):.9g}; there is no sign to change")
        return torch.sign(value.detach())

    @torch.no_grad()
    def sign(self, t: float, y: Parts) -> float:
        """-1, 0, 1, or NaN."""
        value = float(self.combined(self.problem.time_value(t), self.problem.restore_state(y)))
        return math.nan if value != value else float((value > 0) - (value < 0))


class EventRoot:
    """The first root of an event function: a sign change over an accepted step, then bisection on dense output."""

    def __init__(self, event: EventFunction, clock: LockstepClock, tolerance: float) -> None:
        self.event = event
        self.clock = clock
        self.tolerance = tolerance
        self.t = clock.t
        self.y: Parts = ()
        self.sign0 = 0.0

    def start(self, t: float, y: Parts) -> bool:
        self.sign0 = self.event.sign(t, y)
        self.t, self.y = t, y
        return self.sign0 == 0

    def accepted(self, step: Step) -> bool:
        if self.event.sign(step.t1, step.y1) == self.sign0:
            return False
        self.t = bisect(lambda t: self.event.sign(t, step.at(t)) == self.sign0, step.t, step.t1, self.tolerance)
        anchor = self.event.problem.anchor
        # the root stays where it is when the start, and every step with it, moves
        self.y = step.at(self.t) if anchor is None else step.at(self.t - anchor)
        return True


def bisect(before: Callable[[float], bool], t0: float, t1: float, tolerance: float) -> float:
    """The midpoint of the bracket after ``ceil(log2(|t1 - t0| / tolerance))`` halvings; ``before(t0)`` holds."""
    ratio = abs(t1 - t0) / tolerance if tolerance > 0 else 2.0**60
    with torch.no_grad():
        for _ in range(math.ceil(math.log2(ratio)) if ratio > 1 else 0):
            middle = (t0 + t1) / 2
            if before(middle):
                t0 = middle
            else:
                t1 = middle
    return (t0 + t1) / 2
