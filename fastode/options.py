"""From the arguments of a call to a checked request, and from a request to a problem, a clock and a grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .clock import LockstepClock
from .controller import Controller
from .errors import InvalidArgument, UnsupportedInput
from .field import Field
from .fixed_grid import grid_from_step_size
from .kernels import Engine, select
from .kernels.norms import name_of
from .methods import ExternalMethod, GridMethod, Method, lookup
from .problem import (
    Callback,
    Problem,
    check_norm,
    check_state,
    check_time,
    check_tolerance,
    coerce_time,
    prescribed_times,
    real_dtype,
)
from .stats import SolveStats, new_stats
from .tableau import ButcherTableau
from .tree import Parts, unflatten

ADAPTIVE_OPTIONS = frozenset(
    [
        "min_step",
        "max_step",
        "first_step",
        "step_t",
        "jump_t",
        "safety",
        "ifactor",
        "dfactor",
        "max_num_steps",
        "max_total_steps",
        "dtype",
        "norm",
        "engine",
    ]
)
GRID_OPTIONS = frozenset(["step_size", "grid_constructor", "interp", "perturb", "norm", "engine"])
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


@dataclass(frozen=True)
class Settings:
    """How a backward solve is done; unchecked, as the user gave it."""

    rtol: Any
    atol: Any
    method: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A checked call."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    y0: Parts
    spec: Any
    t: Tensor
    rtol: Any
    atol: Any
    method_name: str
    method: Method
    options: dict[str, Any]
    callbacks: tuple[Callback | None, Callback | None, Callback | None]

    @property
    def direction(self) -> float:
        """+1.0 for increasing times, -1.0 for decreasing ones."""
        return -1.0 if len(self.t) > 1 and bool(self.t.detach()[0] > self.t.detach()[1]) else 1.0

    @property
    def adaptive(self) -> bool:
        """Whether the method controls its step size."""
        return isinstance(self.method, ButcherTableau) and self.method.adaptive

    def with_state(self, y0: Parts, t: Tensor) -> Request:
        """The same request from other tensors of the same kind (inside an autograd node)."""
        return replace(self, y0=y0, t=t)

    def problem(self, stats: SolveStats | None = None) -> Problem:
        """The problem, with its account opened unless one is given."""
        stats = stats or new_stats(self.method_name)
        time_dtype = self.t.dtype
        if self.adaptive:
            wanted = self.options.get("dtype", torch.float64)
            if self.t.device.type == "mps":
                wanted = torch.float32  # there is no float64 on that device
            time_dtype = torch.promote_types(wanted, real_dtype(self.y0[0].dtype))
        return Problem(
            field=Field(self.func, self.args, self.y0, self.spec, stats),
            y0=self.y0,
            t=self.t,
            rtol=check_tolerance("rtol", self.rtol, self.y0, self.spec, time_dtype),
            atol=check_tolerance("atol", self.atol, self.y0, self.spec, time_dtype),
            norm=check_norm(self.options.get("norm"), self.y0, self.restore) if self.adaptive else "rms",
            direction=self.direction,
            time_dtype=time_dtype,
            spec=self.spec,
            stats=stats,
            callbacks=self.callbacks,
        )

    def restore(self, parts: Any) -> Any:
        """Parts in the user's structure."""
        return parts[0] if self.spec is None else unflatten(self.spec, parts)

    def engine(self, stats: SolveStats) -> Engine:
        """The engine of the solve; its name and reason go to the account."""
        engine = select(self.y0, self.options.get("engine"))
        stats.engine, stats.reason = engine.name, engine.reason
        return engine

    def clock(self, problem: Problem, stops: dict[float, int] | None = None) -> LockstepClock:
        """The clock of an adaptive solve.

        Args:
            stops: further times at which a step must end and the state jumps.
        """
        assert isinstance(self.method, ButcherTableau)
        o = self.options
        t0 = problem.round_time(float(self.t.detach()[0]))
        step_t, jump_t = (
            prescribed_times(name, o.get(name), t0, problem.direction, problem.round_time)
            for name in ("step_t", "jump_t")
        )
        if len(set(step_t) | set(jump_t)) < len(step_t) + len(jump_t):
            raise InvalidArgument("`step_t` and `jump_t` must not have any repeated elements between them.")
        if stops:
            jump_t = sorted({*jump_t, *stops}, key=lambda v: problem.direction * v)
            step_t = [v for v in step_t if v not in stops]
        controller = Controller(
            order=self.method.order,
            safety=float(o.get("safety", 0.9)),
            factor_min=float(o.get("dfactor", 0.2)),
            factor_max=float(o.get("ifactor", 10.0)),
            dt_min=float(o.get("min_step", 0.0)),
            dt_max=float(o.get("max_step", float("inf"))),
        )
        return LockstepClock(
            t0,
            problem.direction,
            controller,
            problem.stats,
            step_t=step_t,
            jump_t=jump_t,
            max_steps=float(o.get("max_num_steps", 2**31 - 1)),
            max_total_steps=float(o.get("max_total_steps", float("inf"))),
            round_time=problem.round_time,
            resume=bool(stops),
        )

    def grid(self, problem: Problem) -> Tensor:
        """The points of a fixed-grid solve.

        Raises:
            InvalidArgument: both a step size and a constructor were given.
        """
        step_size, constructor = self.options.get("step_size"), self.options.get("grid_constructor")
        if step_size is not None:
            if constructor is not None:
                raise InvalidArgument("step_size and grid_constructor are mutually exclusive arguments.")
            if not float(step_size) > 0:
                raise InvalidArgument(f"options['step_size'] must be positive, but is {float(step_size)}")
            return grid_from_step_size(step_size, self.t, problem.direction)
        if constructor is not None:
            points: Tensor = constructor(self.func, self.restore(self.y0), self.t)
            return points
        return self.t


def prepare(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    args: tuple[Any, ...],
    rtol: Any,
    atol: Any,
    method: str | None,
    options: dict[str, Any] | None,
    callback_suffix: str = "",
) -> Request:
    """Check the arguments of a call, in torchdiffeq's order and with its types of exception."""
    if not callable(func):
        raise UnsupportedInput(f"`func` must be callable as func(t, y), but is a {type(func).__name__}")
    parts, spec = check_state(y0)
    options = dict(options or {})
    if callable(options.get("norm")):
        options["norm"] = name_of(options["norm"], whole=spec is None)
    name = "dopri5" if method is None else method
    found = lookup(name)
    check_time("t", t)
    if not len(t):
        raise InvalidArgument("t must hold at least one time, but is empty")
    t = coerce_time(t, parts[0].device)
    _warn_of_unknown(found, name, options)
    callbacks = tuple(getattr(func, c + callback_suffix, None) for c in CALLBACKS)
    allowed = (
        3 if isinstance(found, ButcherTableau) and found.adaptive else 0 if isinstance(found, ExternalMethod) else 1
    )
    refused = {c for c, callback in list(zip(CALLBACKS, callbacks, strict=True))[allowed:] if callback is not None}
    if refused:
        warnings.warn(f"Solver '{name}' does not support callbacks {refused}", stacklevel=3)
    kept = (*callbacks[:allowed], *[None] * (3 - allowed))
    return Request(func, args, parts, spec, t, rtol, atol, name, found, options, kept)  # type: ignore[arg-type]


def _warn_of_unknown(method: Method, name: str, options: dict[str, Any]) -> None:
    """torchdiffeq's warning for options that the solver does not know."""
    if not isinstance(method, ButcherTableau) and method.options is None:
        return
    if isinstance(method, ButcherTableau):
        known = ADAPTIVE_OPTIONS if method.adaptive else GRID_OPTIONS
    else:
        known = method.options or frozenset()
        if isinstance(method, GridMethod):
            known |= GRID_OPTIONS
    unknown = {k: v for k, v in options.items() if k not in known}
    if unknown:
        warnings.warn(f"{method.solver or name}: Unexpected arguments {unknown}", stacklevel=4)
