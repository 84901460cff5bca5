"""``odeint`` on the device: all rows take the same steps, chosen there.

Serves what :func:`refusal` does not refuse; that goes through :mod:`fastode.loop`, which asks the device for the error
of every attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..clock import LockstepClock, step_underflow, too_many_steps
from ..errors import NonFiniteState
from ..kernels.row_state import EVENT, FINISHED, NON_FINITE, RUNNING, TOO_MANY_STEPS
from ..kernels.triton import DeviceState
from ..kernels.upload import upload
from ..observers import Outputs
from ..problem import Problem, check_finite
from ..tableau import ButcherTableau
from ..tree import Parts
from .attempt import Attempt
from .first_step import first_step as choose_first_step
from .graph import WORTH_CAPTURING, Repeated
from .kept import KeptSteps
from .progress import detached, on_device_of, queue_attempts

_TAPE = "a tape is recorded"


def refusal(problem: Problem, tableau: ButcherTableau, clock: LockstepClock, observer: object) -> str:
    """Why this solve cannot stay on the device, or an empty string."""
    if problem.field.traced or problem.needs_tape:
        return _TAPE
    if not isinstance(observer, Outputs):
        return "events and dense solutions"
    if observer.keeps_steps and not tableau.last_stage_is_solution:
        return "the gradient of a method whose last stage is not at the new state"
    if problem.norm != "rms":
        return f"norm {problem.norm!r}" if isinstance(problem.norm, str) else "a norm of the user's"
    if any(problem.callbacks):
        return "callbacks"
    if problem.time_dtype is not torch.float64:
        return f"options['dtype']={problem.time_dtype}"
    return ""


def integrate(
    problem: Problem,
    tableau: ButcherTableau,
    clock: LockstepClock,
    outputs: Outputs,
    k0: Parts,
    first: float | None,
    jump: Callable[[float, Parts], Parts] | None,
    no_graph: str,
) -> str:
    """Fill ``outputs`` and the account; or say why that could not be done.

    Args:
        k0: the slope at the start.
        first: size of the first step, or None for Hairer's heuristic.
        jump: as in :func:`fastode.loop.integrate`.
        no_graph: why attempts are not repeated as a CUDA graph; "" to do so once there are enough to come.

    Raises:
        NonFiniteState, StepSizeUnderflow, TooManySteps: the solve cannot go on.
    """
    with on_device_of(problem.y0[0]):
        problem.stats.engine, problem.stats.reason = "triton", ""
        if outputs.start(clock.t, problem.y0):
            return ""
        solve = _Solve(problem, tableau, clock, outputs, k0, first)
        no_graph = solve.run(jump, no_graph)
        if problem.field.traced:
            return _TAPE
        problem.stats.cuda_graph = no_graph or "captured"
        solve.settle()
    return ""


class _Solve:
    """One solve: its place on the device, and what the host does about it."""

    def __init__(
        self,
        problem: Problem,
        tableau: ButcherTableau,
        clock: LockstepClock,
        outputs: Outputs,
        k0: Parts,
        first: float | None,
    ) -> None:
        self.problem, self.tableau, self.clock, self.outputs = problem, tableau, clock, outputs
        self.state = state = _begin(problem, tableau, clock, outputs.times)
        if first is None:
            size, k_first = choose_first_step(problem, tableau, k0, state.real("t"))
            state.real("size").copy_(size)
        else:
            state.real("size").fill_(first)
            k_first = detached(k0)
        self.out = tuple([p.new_empty((1, len(outputs.times) - 1, *p.shape)) for p in problem.y0])
        self.attempt = Attempt(problem, tableau, state, detached(problem.y0), k_first, self.out, lockstep=True)
        self.kept = KeptSteps(self.attempt) if outputs.keeps_steps else None
        self.queued = 0

    def run(self, jump: Callable[[float, Parts], Parts] | None, no_graph: str) -> str:
        """Queue attempts until the solve has ended; why they were no graph."""
        if self.kept is not None:
            # they move on from chunk to chunk, which a graph cannot follow
            no_graph = no_graph or "the steps are kept for a gradient"
        self.graph = None if no_graph else Repeated(self.attempt)
        self.attempt.start()
        while True:
            queue_attempts(self._queue, self.state, self.kept)
            if int(self.state.count("status")) != EVENT:
                break
            self._jump(jump)
        if self.graph is not None:
            no_graph = self.graph.reason
            self.graph.end()
        return no_graph

    def _queue(self, count: int) -> None:
        graph, stats = self.graph, self.problem.stats
        called = count
        if graph is not None and (graph.ready or count >= WORTH_CAPTURING):
            # the first attempt compiles kernels, which a capture must not
            called = 0 if self.queued else 1
        for _ in range(called):
            self.attempt()
        if graph is not None and called < count:
            # Python sees no evaluation but that which is captured
            calls = stats.n_func + (count - called) * (self.tableau.stages - 1)
            for _ in range(count - called):
                graph()
            stats.n_func = calls
        self.queued += count

    def _jump(self, jump: Callable[[float, Parts], Parts] | None) -> None:
        """The solve paused at a jump: go on from the state after it."""
        attempt, t = self.attempt, float(self.state.real("t"))
        if jump is not None:
            _overwrite(attempt.y, jump(t, tuple([p.clone() for p in attempt.y])))
        _overwrite(attempt.k_first, self.problem.field(self.problem.time(t, side=1.0), attempt.y))
        self.state.count("status").fill_(RUNNING)
        attempt.start()

    def settle(self) -> None:
        """The outputs and the account; or the error that ended the solve."""
        stats, clock, row = self.problem.stats, self.clock, self.state.of_row()
        t, dt, status = row["t"], row["size"], row["status"]
        stats.n_accepted, stats.n_rejected = int(row["n_accepted"]), int(row["n_rejected"])
        stats.n_idle = self.queued - stats.n_steps
        stats.n_func -= stats.n_idle * (self.tableau.stages - 1)
        stats.t, stats.dt = t, dt
        if status == FINISHED:
            self.outputs.states.extend(zip(*[o[0].unbind(0) for o in self.out], strict=True))
            if self.kept is not None:
                jumps = {self.problem.direction * s for s in clock.jump_s}
                self.outputs.take_steps(self.kept.numbers(), self.kept.states(), jumps)
            return
        if status == NON_FINITE:
            check_finite(self.attempt.y, t)
            raise NonFiniteState(f"the error of a step of the least size is NaN at t={t:.9g}")
        if not stats.n_steps:
            check_finite(self.problem.y0, t)
        if status == TOO_MANY_STEPS:
            if stats.n_steps >= clock.max_total_steps:
                raise too_many_steps(None, clock.max_total_steps, t, dt)
            raise too_many_steps(int(row["since_output"]), clock.max_steps, t, dt)
        raise step_underflow(t, dt)


def _begin(problem: Problem, tableau: ButcherTableau, clock: LockstepClock, times: list[float]) -> DeviceState:
    direction, start = problem.direction, problem.direction * clock.t
    stops = sorted([(s, 0) for s in clock.step_s if s > start] + [(s, 1) for s in clock.jump_s if s > start])

    def numbers(values: Sequence[float]) -> Tensor:
        return upload(torch.tensor([values], dtype=torch.float64), problem.y0[0].device)

    return DeviceState.begin(
        numbers([clock.t])[0],
        numbers([times[-1]])[0],
        numbers([direction * s for s, _ in stops]),
        numbers([*times[1:], float("nan")]),
        tableau.stages,
        problem.real_dtype,
        clock.controller,
        clock.max_total_steps,
        clock.max_steps,
        numbers([is_jump for _, is_jump in stops]).long(),
        clock.resume,
    )


def _overwrite(parts: Parts, values: Parts) -> None:
    for part, value in zip(parts, values, strict=True):
        part.copy_(value)
