"""torchdiffeq's solver classes over fastode's solves, to be instantiated or subclassed.

``Dopri5Solver(func=f, y0=y0, rtol=..., atol=..., **options).integrate(t)`` is one call of fastode. Subclasses work that
define what torchdiffeq's own do: ``order`` and ``_step_func`` on a grid, ``order``, ``tableau`` and ``mid`` for an
adaptive method, ``_advance`` for one that steps by itself.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InvalidArgument, UnsupportedInput
from ..fixed_grid import grid_from_step_size
from ..methods import GridMethod, Method, implicit, lookup
from ..moved_start import from_moved_start
from ..options import ADAPTIVE_OPTIONS, CALLBACKS, Request, prepare
from ..perturb import Perturb
from ..run import solve
from ..tableau import ButcherTableau
from .arguments import _handle_unused_kwargs, _null_callback, _PerturbFunc
from .norms import _rms_norm
from .stepping import (
    _cubic_hermite_interp,
    _linear_interp,
    tableau_from_tensors,
    tableau_increment,
    tableau_tensors,
)

Function = Callable[..., Any]


class _Solver(abc.ABC):
    """What all share: the call of fastode."""

    func: Any
    y0: Tensor

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        """Names of the callbacks that the solver calls."""
        return set()

    def _request(self, t: Tensor, like: str, method: Method, options: dict[str, Any]) -> Request:
        """The call, with the options of the built-in method ``like`` and the steps of ``method``."""

        def field(t: Tensor, y: Tensor) -> Any:
            return self.func(t, y)

        for name in self.valid_callbacks():
            callback = getattr(self.func, name, _null_callback)
            if callback is not _null_callback:
                setattr(field, name, callback)
        rtol, atol = getattr(self, "rtol", 0.0), getattr(self, "atol", 0.0)
        request = prepare(field, self.y0, t, (), rtol, atol, like, options)
        return replace(request, method=method, method_name=type(self).__name__)

    def _states(self, request: Request) -> Tensor:
        states: Tensor = from_moved_start(request, solve)
        return states

    def _until_event(self, request: Request, event_fn: Function) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = from_moved_start(request, lambda r: solve(r, event_fn), event=True)
        return found


def _two_times(t0: Tensor) -> Tensor:
    start = t0.reshape(1)
    return torch.cat([start, start.detach() + 1])


def _perturbable(func: Any) -> Any:
    """``func`` with the argument ``perturb``, with which ``_step_func`` calls it."""
    return func if isinstance(func, _PerturbFunc) else _PerturbFunc(func)


class AdaptiveStepsizeODESolver(_Solver):
    """Base of solvers that bring their own loop: ``_advance(next_t)`` returns the state there."""

    def __init__(self, dtype: torch.dtype, y0: Tensor, norm: Any = _rms_norm, **unused_kwargs: Any) -> None:
        _handle_unused_kwargs(self, unused_kwargs)
        self.y0 = y0
        self.dtype = dtype
        self.norm = norm

    def _before_integrate(self, t: Tensor) -> None:
        """Called with all times before the first step."""

    @abc.abstractmethod
    def _advance(self, next_t: Tensor) -> Tensor:
        """The state at ``next_t``."""

    def integrate(self, t: Tensor) -> Tensor:
        """States [T, *y0.shape] at increasing times ``t``."""
        t = t.to(self.dtype)
        self._before_integrate(t)
        return torch.stack([self.y0, *[self._advance(next_t) for next_t in t[1:]]])


class AdaptiveStepsizeEventODESolver(AdaptiveStepsizeODESolver):
    """Base of those that also find events."""

    @abc.abstractmethod
    def _advance_until_event(self, event_fn: Function) -> tuple[Tensor, Tensor]:
        """Time and state of the event."""

    def integrate_until_event(self, t0: Tensor, event_fn: Function) -> tuple[Tensor, Tensor]:
        """The event's time, and the initial and the final state."""
        t0 = t0.to(self.y0.device, self.dtype)
        self._before_integrate(t0.reshape(-1))
        event_t, y1 = self._advance_until_event(event_fn)
        return event_t, torch.stack([self.y0, y1])


class RKAdaptiveStepsizeODESolver(AdaptiveStepsizeEventODESolver):
    """An explicit pair, defined by the class attributes ``order``, ``tableau`` and ``mid``.

    The steps are fastode's: methods of torchdiffeq's loop cannot be overridden.
    """

    order: int
    tableau: Any
    mid: Tensor

    #: parts of torchdiffeq's loop that fastode's does not call
    _loop: ClassVar[tuple[str, ...]] = (
        "_advance", "_advance_until_event", "_adaptive_step", "_before_integrate", "_interp_fit"
    )  # fmt: skip

    def __init__(
        self,
        func: Any,
        y0: Tensor,
        rtol: Any,
        atol: Any,
        min_step: Any = 0,
        max_step: Any = float("inf"),
        first_step: Any = None,
        step_t: Any = None,
        jump_t: Any = None,
        safety: float = 0.9,
        ifactor: float = 10.0,
        dfactor: float = 0.2,
        max_num_steps: int = 2**31 - 1,
        dtype: torch.dtype = torch.float64,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=torch.promote_types(dtype, y0.abs().dtype), y0=y0, **kwargs)
        self.func = func
        self.rtol, self.atol = rtol, atol
        self.min_step, self.max_step, self.first_step = min_step, max_step, first_step
        self.step_t, self.jump_t = step_t, jump_t
        self.safety, self.ifactor, self.dfactor = safety, ifactor, dfactor
        self.max_num_steps = max_num_steps

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        return set(CALLBACKS)

    @classmethod
    def as_method(cls) -> ButcherTableau:
        """The tableau as fastode's.

        Raises:
            UnsupportedInput: the class overrides a part of torchdiffeq's loop, which is not called here.
        """
        for name in cls._loop:
            if getattr(cls, name) is not getattr(RKAdaptiveStepsizeODESolver, name):
                raise UnsupportedInput(
                    f"{cls.__name__} overrides `{name}`, which fastode's step loop does not call. Define `order`, "
                    "`tableau` and `mid`, or derive from AdaptiveStepsizeODESolver and define `_advance`"
                )
        if (stock := _STOCK.get(cls)) is not None:
            found = lookup(stock)
            assert isinstance(found, ButcherTableau)
            return found
        return tableau_from_tensors(cls.order, cls.tableau, cls.mid, cls.__name__)

    def _options(self) -> dict[str, Any]:
        names = ADAPTIVE_OPTIONS - {"max_total_steps", "engine", "cuda_graph"}  # those are fastode's own
        return {name: getattr(self, name) for name in names}

    def integrate(self, t: Tensor) -> Tensor:
        """States [T, *y0.shape] at times ``t``."""
        return self._states(self._request(t, "dopri5", self.as_method(), self._options()))

    def integrate_until_event(self, t0: Tensor, event_fn: Function) -> tuple[Tensor, Tensor]:
        """The event's time, and the initial and the final state."""
        return self._until_event(self._request(_two_times(t0), "dopri5", self.as_method(), self._options()), event_fn)

    def _adaptive_step(self, rk_state: Any) -> Any:
        raise NotImplementedError("fastode's steps are not taken by the solver's class")

    def _advance(self, next_t: Tensor) -> Tensor:
        raise NotImplementedError("fastode's steps are not taken by the solver's class")

    def _advance_until_event(self, event_fn: Function) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("fastode's steps are not taken by the solver's class")

    def _interp_fit(self, y0: Tensor, y1: Tensor, k: Tensor, dt: Tensor) -> Any:
        raise NotImplementedError("fastode's steps are not taken by the solver's class")


class FixedGridODESolver(_Solver):
    """A method on a grid, defined by ``_step_func(func, t0, dt, t1, y0)``, which returns ``y1 - y0``, or that and the
    slope at ``t0``. Time increases, ``dt`` is positive, and ``func`` takes ``perturb=``."""

    order: int

    def __init__(
        self,
        func: Any,
        y0: Tensor,
        step_size: Any = None,
        grid_constructor: Function | None = None,
        interp: str = "linear",
        perturb: bool = False,
        **unused_kwargs: Any,
    ) -> None:
        self.atol = unused_kwargs.pop("atol", 0.0)
        self.rtol = unused_kwargs.pop("rtol", 0.0)
        unused_kwargs.pop("norm", None)
        _handle_unused_kwargs(self, unused_kwargs)
        if step_size is not None and grid_constructor is not None:
            raise InvalidArgument("step_size and grid_constructor are mutually exclusive arguments.")
        self.func = func
        self.y0 = y0
        self.dtype = y0.dtype
        self.device = y0.device
        self.step_size = step_size
        self.interp = interp
        self.perturb = perturb
        if grid_constructor is None:
            grid_constructor = self._grid_constructor_from_step_size(step_size)
        self.grid_constructor = grid_constructor

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        return {"callback_step"}

    @staticmethod
    def _grid_constructor_from_step_size(step_size: Any) -> Function:
        if step_size is None:
            return lambda func, y0, t: t
        return lambda func, y0, t: grid_from_step_size(step_size, t, 1.0)

    @abc.abstractmethod
    def _step_func(self, func: Function, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
        """``y1 - y0``, or ``(y1 - y0, f0)``."""

    def _method(self) -> Method:
        from .registry import method_of_instance

        return method_of_instance(self)

    def _options(self) -> dict[str, Any]:
        return {"grid_constructor": self.grid_constructor, "interp": self.interp, "perturb": self.perturb}

    def integrate(self, t: Tensor) -> Tensor:
        """States [T, *y0.shape] at times ``t``."""
        return self._states(self._request(t, "euler", self._method(), self._options()))

    def integrate_until_event(self, t0: Tensor, event_fn: Function) -> tuple[Tensor, Tensor]:
        """The event's time, and the initial and the final state."""
        options = {"step_size": self.step_size, "interp": self.interp, "perturb": self.perturb}
        return self._until_event(self._request(_two_times(t0), "euler", self._method(), options), event_fn)

    _linear_interp = staticmethod(_linear_interp)
    _cubic_hermite_interp = staticmethod(_cubic_hermite_interp)


class _TableauSolver(FixedGridODESolver):
    """A built-in explicit tableau on a grid."""

    def _step_func(self, func: Function, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        name = next(_STOCK[kind] for kind in type(self).__mro__ if kind in _STOCK)
        tableau = lookup(name)
        assert isinstance(tableau, ButcherTableau)
        return tableau_increment(tableau, func, t0, dt, t1, y0, None, self.perturb)


class Euler(_TableauSolver):
    """Forward Euler."""

    order = 1


class Midpoint(_TableauSolver):
    """The explicit midpoint rule."""

    order = 2


class Heun2(_TableauSolver):
    """Heun's second-order method."""

    order = 2


class Heun3(_TableauSolver):
    """Heun's third-order method."""

    order = 3


class RK4(_TableauSolver):
    """Kutta's 3/8 rule."""

    order = 4


class AdamsBashforthMoulton(FixedGridODESolver):
    """Adams predictor and corrector."""

    order = 4
    _name = "implicit_adams"

    def __init__(
        self,
        func: Any,
        y0: Tensor,
        rtol: Any = 1e-3,
        atol: Any = 1e-4,
        implicit: bool = True,
        max_iters: int = 4,
        max_order: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(func, y0, rtol=rtol, atol=atol, **kwargs)
        self.implicit = implicit
        self.own = {"max_order": max_order} if max_order is not None else {}
        if implicit:
            self.own["max_iters"] = max_iters

    def _step_func(self, func: Function, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
        raise UnsupportedInput("Adams methods keep a history: single steps cannot be taken through this class")

    def _request(self, t: Tensor, like: str, method: Method, options: dict[str, Any]) -> Request:
        return super()._request(t, self._name if self.implicit else "explicit_adams", method, options | self.own)


class AdamsBashforth(AdamsBashforthMoulton):
    """Adams predictor alone."""

    _name = "explicit_adams"

    def __init__(self, func: Any, y0: Tensor, **kwargs: Any) -> None:
        super().__init__(func, y0, implicit=False, **kwargs)


class ScipyWrapperODESolver(_Solver):
    """A method of ``scipy.integrate.solve_ivp``."""

    def __init__(
        self,
        func: Any,
        y0: Tensor,
        rtol: Any,
        atol: Any,
        min_step: float = 0,
        max_step: float = float("inf"),
        solver: str = "LSODA",
        **unused_kwargs: Any,
    ) -> None:
        for name in ("norm", "grid_points", "eps"):
            unused_kwargs.pop(name, None)
        _handle_unused_kwargs(self, unused_kwargs)
        self.func, self.y0 = func, y0
        self.rtol, self.atol = rtol, atol
        self.options = {"min_step": min_step, "max_step": max_step, "solver": solver}

    def integrate(self, t: Tensor) -> Tensor:
        """States [T, *y0.shape] at times ``t``."""
        return self._states(self._request(t, "scipy_solver", lookup("scipy_solver"), self.options))


class _ImplicitSolver(FixedGridODESolver):
    """A built-in implicit method on a grid."""

    def __init__(self, func: Any, y0: Tensor, max_iters: int = 100, **kwargs: Any) -> None:
        super().__init__(func, y0, **kwargs)
        self.own = {"max_iters": max_iters}

    def _request(self, t: Tensor, like: str, method: Method, options: dict[str, Any]) -> Request:
        name = next(_STOCK[kind] for kind in type(self).__mro__ if kind in _STOCK)
        return super()._request(t, name, method, options | self.own)


def _implicit(method: str) -> Any:
    """The class of a built-in implicit method, named as in torchdiffeq."""
    found = lookup(method)
    assert isinstance(found, GridMethod)

    def _step_func(self: Any, func: Function, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
        raise UnsupportedInput("implicit steps solve for the state: single steps cannot be taken through this class")

    body = {
        "__doc__": f"fastode's ``{method}``.",
        "__module__": __name__,
        "order": found.order,
        "_step_func": _step_func,
    }
    return type(found.solver, (_ImplicitSolver,), body)


def _pair(method: str, class_name: str) -> Any:
    """The class of a built-in explicit pair."""
    tableau = lookup(method)
    assert isinstance(tableau, ButcherTableau)
    body = {
        "__doc__": f"fastode's ``{method}``.",
        "__module__": __name__,
        "order": tableau.order,
        "tableau": tableau_tensors(tableau),
        "mid": torch.tensor(tableau.mid_weights, dtype=torch.float64),
    }
    return type(class_name, (RKAdaptiveStepsizeODESolver,), body)


Dopri5Solver = _pair("dopri5", "Dopri5Solver")
Dopri8Solver = _pair("dopri8", "Dopri8Solver")
Tsit5Solver = _pair("tsit5", "Tsit5Solver")
Bosh3Solver = _pair("bosh3", "Bosh3Solver")
Fehlberg2 = _pair("fehlberg2", "Fehlberg2")
AdaptiveHeunSolver = _pair("adaptive_heun", "AdaptiveHeunSolver")

#: classes whose steps are a built-in method's
_STOCK: dict[type, str] = {
    Dopri8Solver: "dopri8",
    Dopri5Solver: "dopri5",
    Tsit5Solver: "tsit5",
    Bosh3Solver: "bosh3",
    Fehlberg2: "fehlberg2",
    AdaptiveHeunSolver: "adaptive_heun",
    Euler: "euler",
    Midpoint: "midpoint",
    Heun2: "heun2",
    Heun3: "heun3",
    RK4: "rk4",
    AdamsBashforth: "explicit_adams",
    AdamsBashforthMoulton: "implicit_adams",
    ScipyWrapperODESolver: "scipy_solver",
    **{_implicit(method): method for method in implicit.METHODS},
}
globals().update({kind.__name__: kind for kind in _STOCK if issubclass(kind, _ImplicitSolver)})

__all__ = ["Perturb", *[kind.__name__ for kind in _STOCK]]
