"""Where a solve is in time: one shared step size, with steps that land on prescribed times."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

from .controller import Controller
from .errors import StepSizeUnderflow, TooManySteps
from .stats import SolveStats
from .tree import Parts


class LockstepClock:
    """Time and step size of a solve in which all rows take the same steps. All scalars are Python floats.

    Args:
        t0: start, in units of t.
        direction: +1 or -1; ``dt`` is kept positive and signed when it is handed out.
        controller: accepts, rejects and proposes.
        step_t, jump_t: times on which a step must end, sorted in the direction of integration, none before ``t0``.
        max_steps: limit on the attempts between two outputs (torchdiffeq's ``max_num_steps``).
        max_total_steps: limit on the attempts of the whole solve.
        round_time: rounds to the dtype of time.
        resume: after a jump go on with the step size from before it was cut short, where that is larger.
    """

    def __init__(
        self,
        t0: float,
        direction: float,
        controller: Controller,
        stats: SolveStats,
        *,
        step_t: list[float],
        jump_t: list[float],
        max_steps: float,
        max_total_steps: float,
        round_time: Callable[[float], float],
        resume: bool = False,
    ) -> None:
        self.t = t0
        self.t1 = t0
        self.dt = 0.0
        self.tried = 0.0
        self.direction = direction
        self.controller = controller
        self.stats = stats
        self.round_time = round_time
        self.max_steps = max_steps
        self.max_total_steps = max_total_steps
        self.since_output = 0
        # All kept in ascending time s = direction * t.
        self.step_s = [direction * s for s in step_t]
        self.jump_s = [direction * s for s in jump_t]
        self.on_jump = False
        self.resume = resume
        self.wanted = 0.0

    def propose(self) -> tuple[float, float, float]:
        """``(t, dt, t1)`` of the next attempt; ``dt`` is signed.

        Raises:
            StepSizeUnderflow: ``t + dt`` is not beyond ``t``.
            TooManySteps: a limit was reached.
        """
        if self.since_output >= self.max_steps:
            raise too_many_steps(self.since_output, self.max_steps, self.t, self.dt)
        if self.stats.n_accepted + self.stats.n_rejected >= self.max_total_steps:
            raise too_many_steps(None, self.max_total_steps, self.t, self.dt)
        self.since_output += 1
        t, direction = self.t, self.direction
        dt = self.controller.clamp(self.dt)
        t1 = self.round_time(t + direction * dt)
        s, s1 = direction * t, direction * t1
        if not s1 > s:
            raise step_underflow(t, dt)
        on_step = self.on_jump = False
        if self.step_s:
            target = _next(self.step_s, s)
            if s < target < s1:
                on_step, s1 = True, target
        if self.jump_s:
            target = _next(self.jump_s, s)
            if s < target <= s1:
                # a jump takes the place of a prescribed step, as in torchdiffeq
                self.on_jump, on_step, s1 = True, False, target
        if on_step or self.on_jump:
            t1 = direction * s1
            dt = self.round_time(s1 - s)
        self.t1, self.tried, self.wanted = t1, dt, self.dt
        return t, direction * dt, t1

    @property
    def running(self) -> bool:
        """A solve in lockstep goes on until its observer has what it wants."""
        return True

    @staticmethod
    def select(accept: bool, new: Parts, old: Parts) -> Parts:
        """What an accepted attempt commits."""
        return new if accept else old

    def judge(self, err: float) -> bool:
        """Accept or reject the attempt; moves on in time when accepted."""
        accept, self.dt = self.controller.control(err, self.tried)
        self.dt = self.round_time(self.dt)
        if accept:
            self.stats.n_accepted += 1
            self.t = self.t1
            if self.resume and self.on_jump:
                self.dt = max(self.dt, self.wanted)
        else:
            self.stats.n_rejected += 1
        return accept

    def end(self, y: Parts) -> None:
        """The solve is over; the account says where."""
        self.stats.t, self.stats.dt = self.t, self.dt


def step_underflow(t: float, dt: float) -> StepSizeUnderflow:
    """The error of a step that does not move the time."""
    return StepSizeUnderflow(
        f"underflow in dt {dt}: at t={t:.9g} the step is below the spacing of floating-point numbers. The "
        "solution may blow up or the field may return NaN there, or `rtol`, `atol` are too small for the "
        "state's dtype; options['min_step'] sets a floor."
    )


def too_many_steps(since_output: int | None, limit: float, t: float, dt: float) -> TooManySteps:
    """The error of a limit: on the steps since the last output, or (``None``) on all."""
    if since_output is None:
        return TooManySteps(
            f"max_total_steps exceeded ({limit:.15g}) at t={t:.6g} with step size {dt:.3g}. Raise "
            "options['max_total_steps'] or loosen the tolerances."
        )
    return TooManySteps(
        f"max_num_steps exceeded ({since_output}>={limit:.15g}) between two requested times, at t={t:.6g} with step "
        f"size {dt:.3g}. Raise options['max_num_steps'] or loosen the tolerances."
    )


def _next(sorted_s: list[float], s: float) -> float:
    """The first prescribed time after ``s``, or infinity."""
    i = bisect.bisect(sorted_s, s)
    return sorted_s[i] if i < len(sorted_s) else math.inf
