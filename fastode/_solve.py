"""``solve``: every sample its own initial value problem. No algorithm here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ._env import engine_from_environment
from .compiler.compiled import CompiledField
from .compiler.rows import rows_natively
from .compiling import outside_graphs
from .controller import Controller
from .errors import InvalidArgument, UnsupportedInput, did_you_mean
from .field import Field
from .kernels import select
from .methods import lookup
from .problem import Problem, check_state, check_tolerance
from .rows.events import Event, EventFn, check_events
from .rows.run import GRADIENTS, RowRequest, run
from .rows.solution import Solution
from .rows.times import per_row, spans_and_times, stops
from .run import refuse_without_data
from .stats import new_stats
from .tableau import ButcherTableau

#: Exponents (times the order) of the last error and the two before. I: the elementary controller. PI: Hairer, Wanner,
#: "Solving Ordinary Differential Equations II", IV.2 (2.43c). PID: Kennedy, Carpenter, "Additive Runge-Kutta schemes
#: for convection-diffusion-reaction equations", Appl. Numer. Math. 44, 2003.
CONTROLLERS: dict[str, tuple[float, float, float]] = {
    "I": (1.0, 0.0, 0.0),
    "PI": (0.7, -0.4, 0.0),
    "PID": (0.58, -0.21, 0.1),
}
Times = float | Tensor


@outside_graphs
def solve(
    func: Callable[..., Any],
    y0: Any,
    t_span: tuple[Times, Times] | None = None,
    t_eval: Tensor | Sequence[Tensor] | None = None,
    *,
    args: tuple[Any, ...] = (),
    method: str = "dopri5",
    rtol: Any = 1e-5,
    atol: Any = 1e-7,
    controller: str | tuple[float, float, float] = "I",
    event_fn: EventFn | Event | Sequence[EventFn | Event] | None = None,
    dense: bool = False,
    first_step: Times | None = None,
    min_step: float = 0.0,
    max_step: float = math.inf,
    max_steps: int = 2**31 - 1,
    step_t: Tensor | Sequence[Tensor] | None = None,
    jump_t: Tensor | Sequence[Tensor] | None = None,
    safety: float = 0.9,
    factor_min: float = 0.2,
    factor_max: float = 10.0,
    compact: bool = True,
    gradient: str = "discrete",
    params: Sequence[Tensor] | None = None,
    engine: str | None = None,
) -> Solution:
    """Solve B initial value problems ``dy/dt = func(t, y, *args)``, each with its own steps.

    A row's result does not depend on the rows beside it, as far as ``func`` computes rows alike in batches of any size
    (elementwise functions do to the last bit; a matrix product may round otherwise). A row that fails stops alone.

    Args:
        func: ``func(t, y, *args)`` with ``t`` [b] of the real dtype of the state and ``y`` [b, ...]; ``b`` shrinks
            as rows finish, so what belongs to a row must come through ``args``.
        y0: floating or complex tensor [B, ...], or a tuple, list or dict of such.
        t_span: start and end; numbers, or tensors [B]. Rows may run in different directions. By default from the first
            to the last time of ``t_eval``.
        t_eval: [T], [B, T], or a sequence of B one-dimensional tensors; times in the direction of each row, within its
            span. By default both ends of the span.
        args: tensors whose first axis is B long are taken to have one entry a row and shrink with the batch.
        method: an explicit method. Those without an error estimate (``"euler"``, ``"midpoint"``, ``"heun2"``,
            ``"heun3"``, ``"rk4"``) take steps of ``first_step``, cut at times of evaluation.
        rtol, atol: numbers, or tensors that broadcast with ``y0``: [B, 1] for one tolerance a row.
        controller: ``"I"``, ``"PI"``, ``"PID"``, or three exponents (times the order) of the last errors.
        event_fn: functions whose roots are events: :class:`fastode.Event`, or ``function(t, y, *args) -> [b]`` for one
            that is terminal, in either direction. A terminal event ends its row.
        dense: whether the solution can be evaluated at any time, by ``solution.sol(t)``.
        first_step number or tensor [B]; by default Hairer's heuristic for each row.
        min_step, max_step, safety, factor_min, factor_max: limits of step sizes and of their ratios.
        max_steps: limit on the attempts of a row.
        step_t, jump_t: [K], [B, K] or a sequence of B tensors; times on which a step must end, and at which ``func``
            jumps besides: the next step starts with its value just after.
        compact: False keeps rows that have finished in the batch, for a ``func`` that closes over tensors of B rows.
        gradient: ``"discrete"``, one autograd node that keeps a state a step and takes accepted steps again;
            ``"autograd"``, a tape, for second derivatives and for tensors that ``func`` closes over; or
            ``"backsolve"``, the continuous adjoint, which keeps outputs only and is as exact as the tolerances. Step
            sizes are constants. Spans, times of evaluation and events are differentiable in all.
        params: what the nodes differentiate with respect to beside ``y0`` and ``args``; ``func.parameters()`` by
            default.
        engine: ``"triton"``, ``"cuda"``, ``"native"`` or ``"reference"``; the fastest by default.

    Returns:
        A :class:`fastode.Solution`.

    Raises:
        InvalidArgument, UnsupportedInput: an argument is wrong.
        FieldError: ``func`` returned something else than the derivative of the state.

    Reference: Lienen, Guennemann, "torchode: a parallel ODE solver for PyTorch", 2022 (steps for each row of a batch).
    """
    if not callable(func):
        raise UnsupportedInput(f"`func` must be callable as func(t, y, *args), but is a {type(func).__name__}")
    parts, spec = check_state(y0)
    rows = _count_rows(parts)
    tableau = lookup(method)
    if not isinstance(tableau, ButcherTableau):
        raise InvalidArgument(f"method={method!r} is not an explicit Runge-Kutta method, which `solve` takes")
    if not tableau.adaptive and first_step is None:
        raise InvalidArgument(f"method={method!r} has no error estimate: give its step size as `first_step`")
    if gradient not in GRADIENTS:
        raise InvalidArgument(
            f"gradient={gradient!r} is not known.{did_you_mean(str(gradient), list(GRADIENTS))} "
            f"Known: {', '.join(GRADIENTS)}"
        )
    if gradient == "backsolve" and (dense or not compact):
        raise InvalidArgument(
            f"gradient='backsolve' does not go with dense={dense}, compact={compact}: it keeps no steps, and calls "
            "`func` on several stages at once; use gradient='discrete'"
        )
    rule = Controller(
        order=tableau.order,
        safety=_bounded("safety", safety, 0.0, 1.0),
        factor_min=_bounded("factor_min", factor_min, 0.0, 1.0),
        factor_max=_bounded("factor_max", factor_max, 1.0),
        dt_min=_bounded("min_step", min_step, 0.0),
        dt_max=_bounded("max_step", max_step, 0.0),
        filter=_filter(controller),
    )
    if rule.dt_min > rule.dt_max:
        raise InvalidArgument(f"min_step={rule.dt_min:g} is above max_step={rule.dt_max:g}")
    if max_steps < 1:
        raise InvalidArgument(f"max_steps must be at least 1, but is {max_steps}")
    t0, t_end, ts = spans_and_times(t_span, t_eval, rows, parts[0].device)
    size = None if first_step is None else per_row("first_step", first_step, rows, t0.device)
    if size is not None and not bool((size > 0).all()):
        raise InvalidArgument(f"first_step must be positive, but its smallest element is {float(size.min()):g}")
    if not tableau.adaptive:
        # a step is as long as it was unless it was cut, and zero, which stops the row, where the state is not finite
        rule = replace(rule, factor_min=0.0, factor_max=1.0)
    stop_t, jumps = stops(step_t, jump_t, t0.detach(), t_end.detach(), None if tableau.adaptive else ts.detach())
    events = check_events(event_fn)
    if (events or dense) and not tableau.adaptive:
        raise InvalidArgument(
            f"method={method!r} has no dense output, on which `event_fn` and `dense=True` depend; use 'dopri5'"
        )
    stats = new_stats(method)
    problem = Problem(
        field=Field(func, args, parts, spec, stats),
        y0=parts,
        t=torch.zeros(1, dtype=torch.float64, device=t0.device),
        rtol=check_tolerance("rtol", rtol, parts, spec, torch.float64),
        atol=check_tolerance("atol", atol, parts, spec, torch.float64),
        norm="rms",
        direction=1.0,
        time_dtype=torch.float64,
        spec=spec,
        stats=stats,
    )
    refuse_without_data(problem)
    chosen = select(parts, engine, rows=True)
    native, note = None, ""
    if isinstance(func, CompiledField):
        asked = {"an event": events, "jump_t": bool(jumps.any()), "`params`": params is not None}
        engine = engine or engine_from_environment()
        asked |= {f"gradient={gradient!r}": gradient != "discrete", f"engine={engine!r}": engine is not None}
        refused = next((name for name, given in asked.items() if given), "")
        native, note = rows_natively(
            refused, func, problem, tableau, rule, max_steps, size is not None, bool(stop_t.shape[1]), dense
        )
    stats.engine, stats.reason = ("compiled", "") if native else (chosen.name, note or chosen.reason)
    if params is None:  # a compiled field knows its own
        params = tuple(func.parameters()) if isinstance(func, nn.Module) and native is None else ()
    return run(
        RowRequest(
            problem=problem if native is None else native.problem,
            tableau=tableau,
            engine=chosen,
            controller=rule,
            t0=t0,
            t_end=t_end,
            ts=ts,
            first_step=size,
            stops=stop_t,
            jumps=jumps,
            events=events,
            dense=dense,
            max_steps=max_steps,
            compact=compact,
            gradient=gradient,
            restore=problem.restore_state if native is None else native.restore,
            native=native,
            inputs=[x for x in (*params, *args) if isinstance(x, Tensor) and x.requires_grad],
        )
    )


def _count_rows(parts: Sequence[Tensor]) -> int:
    if any(p.ndim == 0 for p in parts):
        raise InvalidArgument("y0 must have a first axis of samples, [B, ...], but is 0-dimensional: use y0[None]")
    counts = {len(p) for p in parts}
    if len(counts) > 1:
        raise InvalidArgument(f"all parts of y0 must have as many samples in their first axis, but have {counts}")
    return counts.pop()


def _bounded(name: str, value: Any, low: float, high: float = math.inf) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidArgument(f"{name} must be a number, but is {value!r}") from None
    if not low <= number <= high or (name in ("safety", "max_step") and number == 0):
        raise InvalidArgument(f"{name} must be from {low:g} to {high:g}, but is {number:g}")
    return number


def _filter(controller: Any) -> tuple[float, float, float]:
    if isinstance(controller, str):
        if controller not in CONTROLLERS:
            raise InvalidArgument(
                f"controller={controller!r} is not known.{did_you_mean(controller, list(CONTROLLERS))} "
                f"Known: {', '.join(CONTROLLERS)}, or three exponents"
            )
        return CONTROLLERS[controller]
    try:
        a, b, c = (float(v) for v in controller)
    except (TypeError, ValueError):
        raise InvalidArgument(f"controller must be a name or three numbers, but is {controller!r}") from None
    return a, b, c
