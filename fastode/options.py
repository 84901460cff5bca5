"""From the arguments of a call to a checked request, and from a request to a problem, a clock and a grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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

if TYPE_CHECKING:
    from .compiler.compiled import CompiledField

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
        "cuda_graph",
    ]
)
GRID_OPTIONS = frozenset(["step_size", "grid_constructor", "interp", "perturb", "norm", "engine"])
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


#: what numbers may be: in words, and as a test
_ALLOWED: dict[str, tuple[str, Callable[[float], bool]]] = {
    "first_step": ("positive", lambda x: x > 0),
    "max_step": ("positive", lambda x: x > 0),
    "step_size": ("positive and finite", lambda x: 0 < x < math.inf),
    "safety": ("positive", lambda x: x > 0),
    "dfactor": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "ifactor": ("at least 1", lambda x: x >= 1),
}


def number_option(options: dict[str, Any], name: str, default: float) -> float:
    """An option as a number; ``default`` where it is missing or None.

    Raises:
        InvalidArgument: it is no number, NaN, or outside its bounds.
    """
    given = options.get(name)
    if given is None:
        return default
    try:
        value = float(given.detach() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidArgument(f"options[{name!r}] must be a number, but is {given!r}") from None
    words, allowed = _ALLOWED.get(name, ("a number", lambda x: x == x))
    if not allowed(value):
        raise InvalidArgument(f"options[{name!r}] must be {words}, but is {value:g}")
    return value


def graph_option(options: dict[str, Any]) -> bool | None:
    """Whether attempts are to be repeated as a CUDA graph; None where that is for fastode to choose.

    Raises:
        InvalidArgument: it is something else.
    """
    wanted: bool | None = options.get("cuda_graph")
    if wanted not in (None, True, False):
        raise InvalidArgument(f"options['cuda_graph'] must be True, False or None (automatic), but is {wanted!r}")
    return wanted


def check_options(name: str, options: Any) -> Mapping[str, Any]:
    """``options``, or nothing for None.

    Raises:
        UnsupportedInput: it is not a dict.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise UnsupportedInput(f"`{name}` must be a dict such as {{'first_step': 0.1}}, but is {options!r}")
    return options


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
    #: why a faster way to solve this was not taken
    note: str = ""
    #: the compiled field whose function ``func`` is, if there is one
    compiled: CompiledField | None = None

    @cached_property
    def direction(self) -> float:
        """+1.0 for increasing times, -1.0 for decreasing ones."""
        times = self.t.tolist()
        return -1.0 if len(times) > 1 and times[0] > times[1] else 1.0

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
            if not isinstance(wanted, torch.dtype):
                raise UnsupportedInput(f"options['dtype'] must be a torch.dtype, but is {wanted!r}: use torch.float64")
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
        engine.no_graph = self._no_graph(engine)
        stats.engine, stats.reason = engine.name, self.note or engine.reason
        return engine

    def _no_graph(self, engine: Engine) -> str:
        """Why a solve that stays on a device does not repeat its attempts as a CUDA graph; "" if it is to."""
        wanted = graph_option(self.options)
        if wanted is not None:
            return "" if wanted else "not wanted"
        if self.compiled is None:
            return "of this field it is not known that it does nothing but launch kernels: fastode.compile can see it"
        if not (engine.on_device and self.spec is None and self.compiled.is_traced(self.y0[0], self.args)):
            return "the field is not compiled for this state"
        return ""

    def clock(self, problem: Problem, stops: dict[float, int] | None = None) -> LockstepClock:
        """The clock of an adaptive solve.

        Args:
            stops: further times at which a step must end and the state jumps.
        """
        assert isinstance(self.method, ButcherTableau)
        o = self.options
        t0 = problem.round_time(self.t[:1].tolist()[0])
        step_t, jump_t = stops_of(o, t0, problem.direction, problem.round_time)
        if stops:
            jump_t = sorted({*jump_t, *stops}, key=lambda v: problem.direction * v)
            step_t = [v for v in step_t if v not in stops]
        return LockstepClock(
            t0,
            problem.direction,
            controller_of(self.method.order, o),
            problem.stats,
            step_t=step_t,
            jump_t=jump_t,
            max_steps=number_option(o, "max_num_steps", 2**31 - 1),
            max_total_steps=number_option(o, "max_total_steps", math.inf),
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
            number_option(self.options, "step_size", 0.0)
            return grid_from_step_size(step_size, self.t, problem.direction)
        if constructor is not None:
            if not callable(constructor):
                raise UnsupportedInput(
                    "options['grid_constructor'] must be callable as grid_constructor(func, y0, t), but is a "
                    f"{type(constructor).__name__}"
                )
            points: Tensor = constructor(self.func, self.restore(self.y0), self.t)
            return points
        return self.t


def controller_of(order: int, o: dict[str, Any]) -> Controller:
    """The controller that ``options`` describe.

    Raises:
        InvalidArgument: an option is out of its bounds.
    """
    if not o:
        return _standard_controller(order)
    controller = Controller(
        order=order,
        safety=number_option(o, "safety", 0.9),
        factor_min=number_option(o, "dfactor", 0.2),
        factor_max=number_option(o, "ifactor", 10.0),
        dt_min=number_option(o, "min_step", 0.0),
        dt_max=number_option(o, "max_step", math.inf),
    )
    if controller.dt_min > controller.dt_max:
        raise InvalidArgument(
            f"options['min_step'] must not be above options['max_step'], but they are {controller.dt_min:g} and "
            f"{controller.dt_max:g}"
        )
    return controller


@cache
def _standard_controller(order: int) -> Controller:
    return Controller(order=order)


def stops_of(
    options: Mapping[str, Any], t0: float, direction: float, round_time: Callable[[float], float]
) -> tuple[list[float], list[float]]:
    """``step_t`` and ``jump_t``, each in the order in which they come.

    Raises:
        InvalidArgument: one requires grad, or a time is there twice.
    """
    step_t, jump_t = (
        prescribed_times(name, options.get(name), t0, direction, round_time) for name in ("step_t", "jump_t")
    )
    if len(set(step_t) | set(jump_t)) < len(step_t) + len(jump_t):
        raise InvalidArgument("`step_t` and `jump_t` must not have any repeated elements between them.")
    return step_t, jump_t


def prepare(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    args: tuple[Any, ...],
    rtol: Any,
    atol: Any,
    method: str | None,
    options: dict[str, Any] | None,
    note: str = "",
) -> Request:
    """Check the arguments of a call, in torchdiffeq's order and with its types of exception.

    Args:
        note: why a compiled field was not solved natively.
    """
    from .compiler.compiled import CompiledField  # which needs the names above

    compiled = func if isinstance(func, CompiledField) else None
    func = func if compiled is None else compiled.uncompiled
    if not callable(func):
        raise UnsupportedInput(f"`func` must be callable as func(t, y), but is a {type(func).__name__}")
    parts, spec = check_state(y0)
    options = dict(check_options("options", options))
    if callable(options.get("norm")):
        options["norm"] = name_of(options["norm"], whole=spec is None)
    name = "dopri5" if method is None else method
    found = lookup(name)
    check_time("t", t)
    if not len(t):
        raise InvalidArgument("t must hold at least one time, but is empty")
    t = coerce_time(t, parts[0].device)
    _warn_of_unknown(found, name, options)
    callbacks = tuple([_callback(func, c) for c in CALLBACKS])
    allowed = (
        3 if isinstance(found, ButcherTableau) and found.adaptive else 0 if isinstance(found, ExternalMethod) else 1
    )
    if any(callbacks[allowed:]):
        refused = {c for c, callback in zip(CALLBACKS[allowed:], callbacks[allowed:], strict=True) if callback}
        warnings.warn(f"Solver '{name}' does not support callbacks {refused}", stacklevel=3)
    kept = (*callbacks[:allowed], *[None] * (3 - allowed))
    return Request(func, args, parts, spec, t, rtol, atol, name, found, options, kept, note, compiled)


def _callback(func: Any, name: str) -> Any:
    """``func.name``, or None. Asking a module for what it has not costs an exception, so it is asked only if it may."""
    if isinstance(func, nn.Module) and not (name in vars(func) or name in func._modules or hasattr(type(func), name)):
        return None
    return getattr(func, name, None)


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
    if not options.keys() <= known:
        unknown = {k: v for k, v in options.items() if k not in known}
        warnings.warn(f"{method.solver or name}: Unexpected arguments {unknown}", stacklevel=4)
