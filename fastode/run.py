"""Run a request: choose the family of the method, the engine and what is made of the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidArgument, UnsupportedInput
from .fixed_grid import ExplicitStepper, GridStepper, integrate_grid, integrate_grid_until_event
from .kernels import Engine
from .loop import integrate
from .methods import ExternalMethod, GridMethod
from .observers import EventFunction, EventRoot, Outputs
from .options import Request, number_option
from .problem import Problem
from .tableau import ButcherTableau
from .tree import Parts

EventFn = Callable[..., Any]


def solve(request: Request, event_fn: EventFn | None = None) -> Any:
    """What ``odeint`` returns."""
    problem = request.problem()
    if event_fn is None:
        return problem.restore_solution(states_at_times(request, problem))
    event_t, states = states_at_event(request, problem, event_fn)
    return event_t, problem.restore_solution(states)


def states_at_times(request: Request, problem: Problem) -> list[Parts]:
    """The state at every requested time."""
    method = request.method
    if isinstance(method, ExternalMethod):
        problem.stats.engine = "scipy"
        return method.solve(problem, request.options)
    engine = request.engine(problem.stats)
    if isinstance(method, ButcherTableau) and method.adaptive:
        refuse_without_data(problem)
        clock = request.clock(problem)
        outputs = Outputs(problem, clock)
        integrate(problem, method, engine, clock, outputs, first_step=first_step(request))
        return outputs.states
    return integrate_grid(
        problem,
        make_stepper(request, problem, engine),
        request.grid(problem),
        interp=request.options.get("interp", "linear"),
        perturb=request.options.get("perturb", False),
    )


def states_at_event(request: Request, problem: Problem, event_fn: EventFn) -> tuple[Tensor, list[Parts]]:
    """Time of the first event, and the initial and the final state.

    Raises:
        InvalidArgument: ``t`` has not two elements, or the method cannot.
    """
    t = request.t
    if not callable(event_fn):
        raise UnsupportedInput(f"`event_fn` must be callable as event_fn(t, y), but is a {type(event_fn).__name__}")
    if len(t) != 2:
        raise InvalidArgument(f"We require len(t) == 2 when in event handling mode, but got len(t)={len(t)}.")
    method = request.method
    event = EventFunction(event_fn, problem)
    refuse_without_data(problem)
    tolerance = min(float(torch.as_tensor(a, dtype=torch.float64).min()) for a in problem.atol)
    if isinstance(method, ExternalMethod):
        raise InvalidArgument(
            f"method={request.method_name!r} cannot locate events; use 'dopri5' or a fixed-grid method"
        )
    engine = request.engine(problem.stats)
    if isinstance(method, ButcherTableau) and method.adaptive:
        clock = request.clock(problem)
        root = EventRoot(event, clock, tolerance)
        integrate(problem, method, engine, clock, root, first_step=first_step(request))
        when, y = root.t, root.y
    else:
        step_size = request.options.get("step_size")
        if step_size is None:
            raise InvalidArgument(
                "Event handling for fixed step solvers currently requires `step_size` to be provided in options."
            )
        when, y = integrate_grid_until_event(
            problem,
            make_stepper(request, problem, engine),
            number_option(request.options, "step_size", 0.0),
            event,
            tolerance,
            interp=request.options.get("interp", "linear"),
            perturb=request.options.get("perturb", False),
        )
    problem.stats.t = when
    return torch.tensor(when, dtype=t.dtype, device=t.device), [problem.y0, y]


def make_stepper(request: Request, problem: Problem, engine: Engine) -> GridStepper:
    """The stepper of a fixed-grid method."""
    method = request.method
    if isinstance(method, GridMethod):
        own = {k: v for k, v in request.options.items() if method.options is None or k in method.options}
        return method.make(problem, engine, own)
    assert isinstance(method, ButcherTableau)
    return ExplicitStepper(problem, engine, method)


def first_step(request: Request) -> float | None:
    """The option ``first_step`` as a number."""
    given = request.options.get("first_step")
    return None if given is None else number_option(request.options, "first_step", 0.0)


def refuse_without_data(problem: Problem) -> None:
    """Steps that depend on values need values.

    Raises:
        UnsupportedInput: the state is a fake or meta tensor.
    """
    y = problem.y0[0]
    fake = y.device.type == "meta" or type(y).__name__ == "FakeTensor"
    if fake or torch._C._functorch.is_batchedtensor(y):
        kind = "vmap" if not fake else f"{type(y).__name__} on {y.device}"
        raise UnsupportedInput(
            f"adaptive steps and events depend on the values of the state, which {kind} does not give. Put the batch "
            "in the state's first axis, or use a fixed-grid method such as 'rk4'."
        )
