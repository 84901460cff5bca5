"""``odeint`` on the device: all rows take the same steps, chosen there.

Serves what :func:`refusal` does not refuse; that goes through :mod:`fastode.loop`, which asks the device for the error
of every attempt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..clock import LockstepClock, step_underflow, too_many_steps
from ..kernels.row_state import FINISHED, TOO_MANY_STEPS
from ..kernels.triton import DeviceState
from ..observers import Outputs
from ..problem import Problem, check_finite
from ..tableau import ButcherTableau
from ..tree import Parts
from .attempt import Attempt
from .first_step import first_step as choose_first_step
from .progress import Progress, detached

_TAPE = "a tape is recorded"


def refusal(problem: Problem, clock: LockstepClock, observer: object) -> str:
    """Why this solve cannot stay on the device, or an empty string."""
    if problem.field.traced or problem.needs_tape:
        return _TAPE
    if type(observer) is not Outputs:
        return "events, dense solutions and steps that are kept for a gradient"
    if problem.norm != "rms":
        return f"norm {problem.norm!r}" if isinstance(problem.norm, str) else "a norm of the user's"
    if any(problem.callbacks):
        return "callbacks"
    if clock.jump_s:
        return "jump_t"
    if clock.controller.dt_min > 0:
        return "min_step"
    if problem.time_dtype is not torch.float64:
        return f"options['dtype']={problem.time_dtype}"
    return ""


def integrate(
    problem: Problem, tableau: ButcherTableau, clock: LockstepClock, outputs: Outputs, k0: Parts, first: float | None
) -> str:
    """Fill ``outputs`` and the account; or say why that could not be done.

    Args:
        k0: the slope at the start.
        first: size of the first step, or None for Hairer's heuristic.

    Raises:
        NonFiniteState, StepSizeUnderflow, TooManySteps: the solve cannot go on.
    """
    device, times = problem.y0[0].device, outputs.times
    problem.stats.engine, problem.stats.reason = "triton", ""
    if outputs.start(clock.t, problem.y0):
        return ""
    state = _state(problem, tableau, clock, times, device)
    if first is None:
        size, k_first = choose_first_step(problem, tableau, k0, state.real("t"))
        state.real("size").copy_(size)
    else:
        state.real("size").fill_(first)
        k_first = detached(k0)
    out = tuple([p.new_empty((len(times) - 1, *p.shape)) for p in problem.y0])
    places = tuple([o[None] for o in out])
    attempt = Attempt(problem, tableau, state, detached(problem.y0), k_first, places, lockstep=True)
    attempt.start()
    progress = Progress(device)
    queued = 0
    running, count = progress.ask(state)
    while running:
        for _ in range(count):
            attempt()
        queued += count
        running, count = progress.ask(state)
    if problem.field.traced:
        return _TAPE
    _settle(problem, tableau, clock, state, queued)
    outputs.states.extend(zip(*out, strict=True))
    return ""


def _state(
    problem: Problem, tableau: ButcherTableau, clock: LockstepClock, times: list[float], device: torch.device
) -> DeviceState:
    direction = problem.direction
    start = direction * clock.t
    stops = [direction * s for s in clock.step_s if s > start]

    def numbers(values: list[float]) -> Tensor:
        return torch.tensor([values], dtype=torch.float64, device=device)

    return DeviceState.begin(
        numbers([clock.t])[0],
        numbers([times[-1]])[0],
        numbers(stops),
        numbers([*times[1:], float("nan")]),
        tableau.stages,
        problem.real_dtype,
        clock.controller,
        clock.max_total_steps,
        clock.max_steps,
    )


def _settle(problem: Problem, tableau: ButcherTableau, clock: LockstepClock, state: DeviceState, queued: int) -> None:
    """The account; and the error that ended the solve, if one did."""
    stats = problem.stats
    t, dt = (float(state.real(name)) for name in ("t", "size"))
    status, stats.n_accepted, stats.n_rejected, since_output = (
        int(state.count(name)) for name in ("status", "n_accepted", "n_rejected", "since_output")
    )
    stats.n_idle = queued - stats.n_steps
    stats.n_func -= stats.n_idle * (tableau.stages - 1)
    stats.t, stats.dt = t, dt
    if status == FINISHED:
        return
    if not stats.n_steps:
        check_finite(problem.y0, t)
    if status == TOO_MANY_STEPS:
        if stats.n_steps >= clock.max_total_steps:
            raise too_many_steps(None, clock.max_total_steps, t, dt)
        raise too_many_steps(since_output, clock.max_steps, t, dt)
    raise step_underflow(t, dt)
