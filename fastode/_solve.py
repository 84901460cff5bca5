"""``solve``: every sample its own initial value problem. No algorithm here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .compiling import outside_graphs
from .controller import Controller
from .errors import InvalidArgument, UnsupportedInput, did_you_mean
from .field import Field
from .gradients import rows as gradients
from .kernels import select
from .kernels.row_state import RowState
from .loop import integrate
from .methods import lookup
from .problem import Problem, check_state, check_tolerance
from .row_outputs import RowOutputs
from .rows import RowsClock
from .run import refuse_without_data
from .solution import RowStats, Solution
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
GRADIENTS = ("discrete", "autograd")

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
    first_step: Times | None = None,
    min_step: float = 0.0,
    max_step: float = math.inf,
    max_steps: int = 2**31 - 1,
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
        method: an adaptive explicit method.
        rtol, atol: numbers, or tensors that broadcast with ``y0``: [B, 1] for one tolerance a row.
        controller: ``"I"``, ``"PI"``, ``"PID"``, or three exponents (times the order) of the last errors.
        first_step: positive number or tensor [B]; by default Hairer's heuristic for each row.
        min_step, max_step, safety, factor_min, factor_max: limits of step sizes and of their ratios.
        max_steps: limit on the attempts of a row.
        compact: False keeps rows that have finished in the batch, for a ``func`` that closes over tensors of B rows.
        gradient: ``"discrete"``, one autograd node that keeps a state a step; or ``"autograd"``, a tape, for second
            derivatives and for tensors that ``func`` closes over. Both take every accepted step again; times and step
            sizes are constants.
        params: what ``"discrete"`` differentiates with respect to beside ``y0`` and ``args``; ``func.parameters()`` by
            default.
        engine: ``"native"`` or ``"reference"``; the fastest by default.

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
    if not isinstance(tableau, ButcherTableau) or not tableau.adaptive:
        raise InvalidArgument(f"method={method!r} has no error estimate; `solve` takes adaptive explicit methods")
    if gradient not in GRADIENTS:
        raise InvalidArgument(
            f"gradient={gradient!r} is not known.{did_you_mean(str(gradient), list(GRADIENTS))} "
            f"Known: {', '.join(GRADIENTS)}"
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
    t0, t_end, ts = _times(t_span, t_eval, rows, parts[0].device)
    size = torch.full_like(t0, math.nan) if first_step is None else _per_row("first_step", first_step, rows, t0.device)
    if first_step is not None and not bool((size > 0).all()):
        raise InvalidArgument(f"first_step must be positive, but its smallest element is {float(size.min()):g}")
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
    chosen = select(parts, engine)
    stats.engine, stats.reason = chosen.name, chosen.reason
    calls = 0

    def run(detached: Problem, keep: str) -> tuple[RowsClock, RowOutputs]:
        nonlocal calls
        state = RowState.begin(t0, t_end, size)
        clock = RowsClock(state, detached.y0, rule, chosen.control, stats, max_steps, compact)
        outputs = RowOutputs(detached, clock, ts, keep)
        with torch.no_grad():
            integrate(detached, tableau, chosen, clock, outputs)
        calls = stats.n_func
        return clock, outputs

    if params is None:
        params = tuple(func.parameters()) if isinstance(func, nn.Module) else ()
    inputs = [x for x in (*params, *args) if isinstance(x, Tensor) and x.requires_grad]
    wanted = torch.is_grad_enabled()
    if gradient == "discrete":
        wanted = wanted and any(x.requires_grad for x in (*parts, *inputs))
    if not wanted:
        clock, outputs = run(problem, "")
        ys, y = outputs.ys, clock.y
    elif gradient == "autograd":
        clock, ys, y = gradients.autograd(problem, tableau, run)
    else:
        clock, ys, y = gradients.discrete(problem, tableau, run, inputs)
    state = clock.all
    steps = state.n_accepted + state.n_rejected
    at_accept = 0 if tableau.last_stage_is_solution else 1
    start = 1 if first_step is not None else 2
    return Solution(
        ts=ts,
        ys=problem.restore_state(ys),
        t=state.t,
        y=problem.restore_state(y),
        status=state.status,
        stats=RowStats(
            n_func=start + steps * (tableau.stages - 1) + at_accept * state.n_accepted,
            n_accepted=state.n_accepted,
            n_rejected=state.n_rejected,
            dt=state.size,
            n_calls=calls,
        ),
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


def _per_row(name: str, value: Any, rows: int, device: torch.device) -> Tensor:
    """A number or [B] as float64 [B].

    Raises:
        InvalidArgument: another shape, NaN or infinite, or it requires grad.
    """
    if isinstance(value, Tensor) and value.requires_grad:
        raise InvalidArgument(f"{name} cannot require gradient: use {name}.detach()")
    try:
        given = torch.as_tensor(value, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidArgument(f"{name} must be a number or a tensor [{rows}], but is {value!r}") from None
    if given.shape not in ((), (1,), (rows,)):
        raise InvalidArgument(
            f"{name} must be a number or have one entry for each of the {rows} samples, but has shape "
            f"{tuple(given.shape)}"
        )
    if not bool(given.isfinite().all()):
        raise InvalidArgument(f"{name} must be finite")
    return given.expand(rows).contiguous()


def _times(t_span: Any, t_eval: Any, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Starts and ends [B], and times of evaluation [B, T] padded with NaN."""
    ts = None if t_eval is None else _evaluation_times(t_eval, rows, device)
    if ts is not None and not ts.shape[1]:
        raise InvalidArgument(
            "t_eval must hold at least one time, but is empty; leave it out for both ends of `t_span`"
        )
    if t_span is None:
        if ts is None:
            raise InvalidArgument("one of `t_span` and `t_eval` must be given")
        count = (~ts.isnan()).sum(dim=1)
        if bool((count == 0).any()):
            raise InvalidArgument("t_eval has no times for some samples; give their `t_span`")
        t0, t_end = ts[:, 0].contiguous(), ts.gather(1, count[:, None] - 1).squeeze(1)
    else:
        if not isinstance(t_span, Sequence | Tensor) or len(t_span) != 2:
            raise InvalidArgument(f"t_span must be a pair (start, end), but is {t_span!r}")
        t0, t_end = (_per_row(f"t_span[{i}]", t_span[i], rows, device) for i in (0, 1))
    if ts is None:
        return t0, t_end, torch.stack([t0, t_end], dim=1)
    sign = torch.sign(t_end - t0)[:, None]
    later = sign * ts.diff(dim=1)
    if bool((later <= 0).any()):
        row = int((later <= 0).any(dim=1).nonzero()[0])
        raise InvalidArgument(f"t_eval must go strictly from start to end in every row, but does not in row {row}")
    outside = (sign * ts < sign * t0[:, None]) | (sign * ts > sign * t_end[:, None])
    if bool(outside.any()):
        row = int(outside.any(dim=1).nonzero()[0])
        raise InvalidArgument(
            f"t_eval must lie within t_span, but row {row} goes from {float(t0[row]):g} to {float(t_end[row]):g} and "
            f"has t={float(ts[row][outside[row]][0]):g}"
        )
    return t0, t_end, ts


def _evaluation_times(t_eval: Any, rows: int, device: torch.device) -> Tensor:
    if isinstance(t_eval, Tensor) and t_eval.ndim in (1, 2):
        if t_eval.requires_grad:
            raise InvalidArgument("t_eval cannot require gradient: use t_eval.detach()")
        ts = t_eval.to(device=device, dtype=torch.float64)
        if not bool(ts.isfinite().all()):
            raise InvalidArgument("t_eval must be finite")
        if ts.ndim == 1:
            return ts.expand(rows, -1).contiguous()
        if len(ts) == rows:
            return ts.contiguous()
    elif isinstance(t_eval, Sequence) and len(t_eval) == rows and all(isinstance(t, Tensor) for t in t_eval):
        each = [_evaluation_times(t, 1, device)[0] for t in t_eval]
        longest = max((len(t) for t in each), default=0)
        ts = torch.full((rows, longest), math.nan, dtype=torch.float64, device=device)
        for i, t in enumerate(each):
            ts[i, : len(t)] = t
        return ts
    shape = f"shape {tuple(t_eval.shape)}" if isinstance(t_eval, Tensor) else f"type {type(t_eval).__name__}"
    raise InvalidArgument(
        f"t_eval must be a tensor [T] or [{rows}, T], or a list of {rows} one-dimensional tensors, but has {shape}"
    )
