"""Any solver of ``scipy.integrate.solve_ivp``: a reference to compare with. Slow, on the CPU, without gradients.

Options: ``solver`` (``"LSODA"``, ``"RK45"``, ``"DOP853"``, ``"Radau"``, ``"BDF"``, ``"RK23"``, or an ``OdeSolver``),
``max_step``, and ``min_step``, which only LSODA has. Every evaluation is a round trip through numpy in float64.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InvalidArgument, SolverError, UnsupportedInput
from ..kernels.reference.finish import Tolerance
from ..problem import Problem
from ..tree import Parts
from . import ExternalMethod

SOLVERS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")

Array = npt.NDArray[Any]


def _solve(problem: Problem, options: dict[str, Any]) -> list[Parts]:
    """States at all requested times; they carry no gradient.

    Raises:
        ImportError: SciPy is not installed.
        InvalidArgument, UnsupportedInput: the solver is unknown, or cannot integrate complex states.
        SolverError: SciPy gave up.
    """
    y0 = tuple([p.detach() for p in problem.y0])
    if len(problem.t) == 1 or not sum(p.numel() for p in y0):
        return [tuple([p.clone() for p in y0]) for _ in problem.t]
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise ImportError("method='scipy_solver' needs SciPy: pip install scipy") from error
    solver = _solver_class(options.get("solver", "LSODA"))
    if y0[0].is_complex() and solver.__name__ == "LSODA":
        raise UnsupportedInput("scipy's LSODA integrates real states only; use options={'solver': 'DOP853'} (or 'BDF')")
    limits = {"max_step": float(options.get("max_step", float("inf")))}
    min_step = float(options.get("min_step", 0.0))
    if "min_step" in inspect.signature(solver).parameters:
        limits["min_step"] = min_step
    elif min_step:
        warnings.warn(f"scipy_solver: {solver.__name__} has no min_step; {min_step} is ignored", stacklevel=2)

    def slope(t: float, y: Array) -> Array:
        with torch.no_grad():
            return _to_numpy(problem.field(problem.time(t), _to_parts(y, y0)))

    t = problem.t.detach().to("cpu", torch.float64).numpy()
    rtol, atol = _tolerance(problem.rtol, y0), _tolerance(problem.atol, y0)
    answer = solve_ivp(slope, (t[0], t[-1]), _to_numpy(y0), solver, t, rtol=rtol, atol=atol, **limits)
    if not answer.success:
        reached = answer.t[-1] if len(answer.t) else t[0]
        raise SolverError(f"scipy's {solver.__name__} stopped after t={reached:.6g}: {answer.message}")
    problem.stats.t = float(t[-1])
    return [_to_parts(y, y0) for y in answer.y.T]


def _solver_class(solver: Any) -> type:
    import scipy.integrate

    if isinstance(solver, str) and solver in SOLVERS:
        found: type = getattr(scipy.integrate, solver)
        return found
    if isinstance(solver, type) and issubclass(solver, scipy.integrate.OdeSolver):
        return solver
    raise InvalidArgument(f"options['solver']={solver!r} is not known; pass an OdeSolver class or one of {SOLVERS}")


def _to_numpy(parts: Sequence[Tensor]) -> Array:
    """The elements of all parts, in double precision."""
    dtype = torch.complex128 if parts[0].is_complex() else torch.float64
    flat: Array = torch.cat([p.detach().reshape(-1) for p in parts]).to("cpu", dtype).numpy()
    return flat


def _to_parts(y: Array, like: Parts) -> Parts:
    # a copy: SciPy reuses its arrays
    flat = torch.tensor(y).to(device=like[0].device, dtype=like[0].dtype)
    pieces = flat.split([p.numel() for p in like])
    return tuple([piece.reshape(p.shape) for piece, p in zip(pieces, like, strict=True)])


def _tolerance(tolerances: Sequence[Tolerance], like: Parts) -> float | Array:
    """One number, or one for every element."""
    values = {tol for tol in tolerances if not isinstance(tol, Tensor)}
    if len(values) == 1 and not any(isinstance(tol, Tensor) for tol in tolerances):
        return values.pop()
    full = [
        torch.as_tensor(tol, dtype=torch.float64).cpu().expand(p.shape) for tol, p in zip(tolerances, like, strict=True)
    ]
    array: Array = np.concatenate([f.reshape(-1).numpy() for f in full])
    return array


METHOD = ExternalMethod(
    _solve, frozenset({"solver", "min_step", "max_step", "norm", "grid_points", "eps"}), "ScipyWrapperODESolver"
)
