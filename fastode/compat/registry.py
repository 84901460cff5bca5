"""``SOLVERS``: torchdiffeq's table of methods. What is written into it becomes a method of fastode."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels import Engine
from ..kernels.reference.combine import Weight, combine
from ..methods import ExternalMethod, GridMethod, Method, lookup, methods, register, unregister
from ..problem import Problem
from ..tree import Parts
from . import solvers
from .arguments import (
    _all_callback_names,
    _flat_to_shape,
    _flatten,
    _null_callback,
    _PerturbFunc,
    _ReverseFunc,
)
from .solvers import _STOCK, FixedGridODESolver, RKAdaptiveStepsizeODESolver


class FlatView:
    """A problem as solver classes see it: one flat tensor for a structure, and time that increases."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.direction = problem.direction
        self.whole = problem.spec is None
        self.shapes = [p.shape for p in problem.y0]
        self.y0 = self.join(problem.y0)
        func: Any = self._field if self.direction > 0 else _ReverseFunc(self._field, mul=-1.0)
        self.func = _PerturbFunc(func)
        for name in _all_callback_names:
            setattr(self.func, name, _null_callback)

    def _field(self, t: Tensor, y: Tensor) -> Tensor:
        return self.join(self.problem.field(t, self.split(y)))

    def join(self, parts: Parts) -> Tensor:
        """One tensor."""
        return parts[0] if self.whole else _flatten(parts)

    def split(self, flat: Tensor) -> Parts:
        """Contiguous parts."""
        return (flat.contiguous(),) if self.whole else _flat_to_shape(flat, (), self.shapes)

    def tolerance(self, values: Sequence[Any]) -> Any:
        """One tolerance, or one for each element of the flat state."""
        if self.whole or all(isinstance(v, float) and v == values[0] for v in values):
            return values[0]
        return torch.cat(
            [
                torch.as_tensor(v, dtype=torch.float64).expand(s).reshape(-1)
                for v, s in zip(values, self.shapes, strict=True)
            ]
        )

    def solver(self, kind: Any, options: dict[str, Any]) -> Any:
        """An instance of the class for this problem."""
        rtol, atol = self.tolerance(self.problem.rtol), self.tolerance(self.problem.atol)
        return kind(func=self.func, y0=self.y0, rtol=rtol, atol=atol, **options)


class SolverStepper:
    """Steps of a grid taken by a class's ``_step_func``."""

    nodes: Sequence[float] = ()

    def __init__(self, view: FlatView, solver: Any) -> None:
        self.view = view
        self.solver = solver
        self.like = view.problem.t
        view.problem.stats.engine = "autograd" if view.problem.needs_tape else "reference"

    def step(self, t0: Weight, dt: Weight, t1: Weight, times: Sequence[Tensor], y: Parts) -> tuple[Parts, Parts]:
        view, direction = self.view, self.view.direction
        start, size, end = (
            direction * torch.as_tensor(v, dtype=self.like.dtype, device=self.like.device) for v in (t0, dt, t1)
        )
        flat = view.join(y)
        value = self.solver._step_func(view.func, start, size, end, flat)
        if isinstance(value, tuple):
            change, slope = value
        else:
            change = value
            slope = view.func(start, flat) if self.solver.interp == "cubic" else flat
        return view.split(flat + change), view.split(direction * slope)

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: Sequence[Weight]) -> Parts:
        return tuple([combine(b, [v[p] for v in vectors], weights) for p, b in enumerate(base)])


def method_of(kind: Any) -> Method:
    """A solver class as a method.

    Raises:
        UnsupportedInput: it is an adaptive Runge-Kutta method with a loop of its own.
    """
    if kind in _STOCK:
        return lookup(_STOCK[kind])
    if issubclass(kind, RKAdaptiveStepsizeODESolver) and kind.integrate is RKAdaptiveStepsizeODESolver.integrate:
        tableau: Method = kind.as_method()
        return tableau
    if issubclass(kind, FixedGridODESolver) and kind.integrate is FixedGridODESolver.integrate:
        return _grid_method(kind)
    return _external_method(kind)


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k not in names}


def _grid_method(kind: Any) -> Method:
    step_func = kind._step_func
    stock = next((name for known, name in _STOCK.items() if getattr(known, "_step_func", None) is step_func), None)
    if stock in methods() and not issubclass(kind, solvers._TableauSolver):
        return lookup(stock)

    def make(problem: Problem, engine: Engine, options: dict[str, Any]) -> SolverStepper:
        view = FlatView(problem)
        # the grid is made by the caller
        return SolverStepper(view, view.solver(kind, _without(options, "engine", "grid_constructor")))

    return GridMethod(getattr(kind, "order", 1), make, options=None, solver=kind.__name__)


def method_of_instance(solver: Any) -> Method:
    """The method of a grid solver that was made by hand."""
    kind = type(solver)
    if kind in _STOCK:
        return lookup(_STOCK[kind])

    def make(problem: Problem, engine: Engine, options: dict[str, Any]) -> SolverStepper:
        return SolverStepper(FlatView(problem), solver)

    return GridMethod(getattr(kind, "order", 1), make, solver=kind.__name__)


def _external_method(kind: Any) -> Method:
    def solve(problem: Problem, options: dict[str, Any]) -> list[Parts]:
        view = FlatView(problem)
        solution = view.solver(kind, _without(options, "engine")).integrate(view.direction * problem.t)
        return [view.split(y) for y in solution]

    return ExternalMethod(solve, options=None, solver=kind.__name__)


class SolverTable(dict[str, Any]):
    """A dict of solver classes by name whose writes are seen by ``odeint`` and ``odeint_adjoint``."""

    def __init__(self) -> None:
        super().__init__()
        self.written: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """As if nothing had been written."""
        for name in self.written:
            unregister(name)
        self.written.clear()
        super().clear()
        built_in = {name: kind for kind, name in _STOCK.items() if name in methods()}
        super().update(built_in)
        if "implicit_adams" in built_in:
            super().__setitem__("fixed_adams", built_in["implicit_adams"])

    def __setitem__(self, name: str, kind: Any) -> None:
        register(name, method_of(kind))
        self.written.add(name)
        super().__setitem__(name, kind)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        unregister(name)

    # dict's own versions of these would go past the two above
    pop = MutableMapping.pop
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault


SOLVERS = SolverTable()
