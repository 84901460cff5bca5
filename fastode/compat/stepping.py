"""Pieces of a step, an interpolation and an event, under torchdiffeq's names and with its arguments."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..controller import Controller, initial_step
from ..errors import InvalidArgument
from ..methods import heun2, rk4
from ..observers import bisect
from ..perturb import Perturb
from ..tableau import ButcherTableau

Function = Callable[..., Any]

_ButcherTableau = namedtuple("_ButcherTableau", "alpha, beta, c_sol, c_error")
_RungeKuttaState = namedtuple("_RungeKuttaState", "y1, f1, t0, t1, dt, interp_coeff")

_CLASSIC_RK4 = ButcherTableau(
    order=4, c=(0, 0.5, 0.5, 1), a=((), (0.5,), (0, 0.5), (0, 0, 1)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6)
)


def tableau_tensors(tableau: ButcherTableau) -> Any:
    """torchdiffeq's form of a tableau: no first row, float64 tensors."""
    as_tensor = [torch.tensor(row, dtype=torch.float64) for row in tableau.matrix[1:]]
    alpha, c_sol, c_error = (
        torch.tensor(v, dtype=torch.float64) for v in (tableau.nodes[1:], tableau.weights, tableau.error_weights)
    )
    return _ButcherTableau(alpha=alpha, beta=as_tensor, c_sol=c_sol, c_error=c_error)


def tableau_from_tensors(order: int, tableau: Any, mid: Tensor, solver: str) -> ButcherTableau:
    """fastode's form of it. torchdiffeq starts every step with the last stage of the one before, FSAL or not."""
    return ButcherTableau(
        order=order,
        c=(0, *torch.as_tensor(tableau.alpha).tolist()),
        a=((), *[tuple(torch.as_tensor(row).tolist()) for row in tableau.beta]),
        b=tuple(torch.as_tensor(tableau.c_sol).tolist()),
        b_error=tuple(torch.as_tensor(tableau.c_error).tolist()),
        b_mid=tuple(torch.as_tensor(mid).tolist()),
        reuse_last_stage=True,
        solver=solver,
    )


def tableau_increment(
    tableau: ButcherTableau,
    func: Function,
    t0: Tensor,
    dt: Tensor,
    t1: Tensor,
    y0: Tensor,
    f0: Any,
    perturb: bool,
) -> tuple[Tensor, Tensor]:
    """``(y1 - y0, f0)`` of one explicit step; just inside its ends if ``perturb``."""
    before, after = (Perturb.PREV, Perturb.NEXT) if perturb else (Perturb.NONE, Perturb.NONE)
    first = func(t0, y0, perturb=after) if f0 is None else f0
    k = [first]
    for c, row in zip(tableau.nodes[1:], tableau.matrix[1:], strict=True):
        y = y0 + _weighted(dt, row, k)
        k.append(func(t1, y, perturb=before) if c == 1 else func(t0 + dt * c, y))
    return _weighted(dt, tableau.weights, k), first


def _weighted(dt: Tensor, weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    terms = [(dt * w) * v for w, v in zip(weights, k, strict=True) if w != 0]
    return sum(terms[1:], terms[0])


def rk4_step_func(
    func: Function, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor, f0: Any = None, perturb: bool = False
) -> Tensor:
    """Increment of the classic fourth-order method."""
    return tableau_increment(_CLASSIC_RK4, func, t0, dt, t1, y0, f0, perturb)[0]


def rk4_alt_step_func(
    func: Function, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor, f0: Any = None, perturb: bool = False
) -> Tensor:
    """Increment of Kutta's 3/8 rule."""
    return tableau_increment(rk4.METHOD, func, t0, dt, t1, y0, f0, perturb)[0]


def rk3_step_func(
    func: Function,
    t0: Tensor,
    dt: Tensor,
    t1: Tensor,
    y0: Tensor,
    butcher_tableu: Any = None,
    f0: Any = None,
    perturb: bool = False,
) -> Tensor:
    """Increment of a three-stage method given as rows ``[c_i, a_i1, a_i2, a_i3]`` and ``[0, b_1, b_2, b_3]``."""
    return tableau_increment(_from_rows(3, butcher_tableu), func, t0, dt, t1, y0, f0, perturb)[0]


def rk2_step_func(
    func: Function,
    t0: Tensor,
    dt: Tensor,
    t1: Tensor,
    y0: Tensor,
    butcher_tableu: Any = None,
    f0: Any = None,
    perturb: bool = False,
) -> Tensor:
    """Increment of a two-stage method given as rows ``[c_i, a_i1, a_i2]`` and ``[0, b_1, b_2]``; Heun's by default."""
    tableau = heun2.METHOD if butcher_tableu is None else _from_rows(2, butcher_tableu)
    return tableau_increment(tableau, func, t0, dt, t1, y0, f0, perturb)[0]


def _from_rows(order: int, rows: Sequence[Sequence[float]]) -> ButcherTableau:
    stages = rows[:-1]
    a = tuple(tuple(row[1 : 1 + i]) for i, row in enumerate(stages))
    return ButcherTableau(order=order, c=tuple(row[0] for row in stages), a=a, b=tuple(rows[-1][1:]))


def _runge_kutta_step(
    func: Function, y0: Tensor, f0: Tensor, t0: Tensor, dt: Tensor, t1: Tensor, tableau: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(y1, f1, error, k)`` of one step; ``k`` is ``[*y0.shape, stages]``."""
    real = y0.real.dtype if y0.is_complex() else y0.dtype
    t0, dt, t1 = t0.to(real), dt.to(real), t1.to(real)
    k, y = [f0], y0
    for c, row in zip(tableau.alpha.tolist(), tableau.beta, strict=True):
        y = y0 + _weighted(dt, row.tolist(), k)
        k.append(func(t1, y, perturb=Perturb.PREV) if c == 1 else func(t0 + c * dt, y, perturb=Perturb.NONE))
    weights = tableau.c_sol.tolist()
    y1 = y if weights[-1] == 0 and weights[:-1] == tableau.beta[-1].tolist() else y0 + _weighted(dt, weights, k)
    return y1, k[-1], _weighted(dt, tableau.c_error.tolist(), k), torch.stack(k, dim=-1)


def _select_initial_step(
    func: Function,
    t0: Tensor,
    y0: Tensor,
    order: int,
    rtol: Any,
    atol: Any,
    norm: Function,
    f0: Tensor | None = None,
) -> Tensor:
    """Hairer's first step for a method whose error estimate has the given order."""
    f = func(t0, y0) if f0 is None else f0
    scale = atol + y0.abs() * rtol

    def probe(h0: float) -> float:
        f1 = func(t0 + h0, y0 + h0 * f)
        return abs(float(norm((f1 - f) / scale)))

    d0, d1 = abs(float(norm(y0 / scale))), abs(float(norm(f / scale)))
    real = y0.real.dtype if y0.is_complex() else y0.dtype
    size = initial_step(d0, d1, probe, order + 1, lambda x: float(torch.tensor(x, dtype=real)))
    return torch.tensor(size, dtype=t0.dtype, device=t0.device)


def _compute_error_ratio(
    error_estimate: Tensor, rtol: Any, atol: Any, y0: Tensor, y1: Tensor, norm: Function
) -> Tensor:
    """The norm of the error in units of the tolerance."""
    return torch.as_tensor(norm(error_estimate / (atol + rtol * torch.max(y0.abs(), y1.abs())))).abs()


def _optimal_step_size(
    last_step: Tensor, error_ratio: Any, safety: Any, ifactor: Any, dfactor: Any, order: int
) -> Tensor:
    """The next step size of the elementary controller."""
    controller = Controller(order, safety=float(safety), factor_min=float(dfactor), factor_max=float(ifactor))
    size = float(last_step)
    return last_step.detach() * (controller.control(float(error_ratio), abs(size))[1] / abs(size))


def _interp_fit(y0: Tensor, y1: Tensor, y_mid: Tensor, f0: Tensor, f1: Tensor, dt: Any) -> list[Tensor]:
    """Coefficients, lowest power first, of the quartic through both ends, both slopes and the midpoint."""
    rise, half = y1 - y0, y_mid - y0
    d0, d1 = dt * f0, dt * f1
    square = d1 - 4 * d0 - 5 * rise + 16 * half
    cube = 5 * d0 - 3 * d1 + 14 * rise - 32 * half
    fourth = 2 * (d1 - d0) - 8 * rise + 16 * half
    return [y0, d0, square, cube, fourth]


def _interp_evaluate(coefficients: Sequence[Tensor], t0: Tensor, t1: Tensor, t: Tensor) -> Tensor:
    """The polynomial at ``t`` in ``[t0, t1]``."""
    if not (t0 <= t and t <= t1):
        raise InvalidArgument(f"invalid interpolation, fails `t0 <= t <= t1`: {t0}, {t}, {t1}")
    x = torch.as_tensor((t - t0) / (t1 - t0)).to(coefficients[0].dtype)
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


@torch.no_grad()
def find_event(
    interp_fn: Function, sign0: Tensor, t0: Tensor, t1: Tensor, event_fn: Function, tol: Any
) -> tuple[Tensor, Tensor]:
    """Time and state of the sign change of ``event_fn`` between ``t0`` and ``t1``, by bisection."""

    def time(t: float) -> Tensor:
        return torch.tensor(t, dtype=t1.dtype, device=t1.device)

    def before(t: float) -> bool:
        return bool(torch.sign(event_fn(time(t), interp_fn(time(t)))) == sign0)

    root = time(bisect(before, float(t0), float(t1), float(tol)))
    return root, interp_fn(root)


def combine_event_functions(event_fn: Function, t0: Tensor, y0: Any) -> Function:
    """The smallest component of ``event_fn``, each with the sign that makes it start positive."""
    with torch.no_grad():
        signs = torch.sign(event_fn(t0, y0))

    def combined(t: Tensor, y: Any) -> Tensor:
        return torch.min(event_fn(t, y) * signs)

    return combined


def _sort_tvals(tvals: Tensor, t0: Tensor) -> Tensor:
    """Those from ``t0`` on, in order."""
    return torch.sort(tvals[tvals >= t0]).values


def _linear_interp(t0: Tensor, t1: Tensor, y0: Tensor, y1: Tensor, t: Tensor) -> Tensor:
    """The state at ``t`` on the chord; the very ends at the ends."""
    if t == t0:
        return y0
    return y1 if t == t1 else y0 + (t - t0) / (t1 - t0) * (y1 - y0)


def _cubic_hermite_interp(t0: Tensor, y0: Tensor, f0: Tensor, t1: Tensor, y1: Tensor, f1: Tensor, t: Tensor) -> Tensor:
    """The state at ``t`` on the cubic through both ends and slopes."""
    dt = t1 - t0
    x = (t - t0) / dt
    back = 1 - x
    return y0 + x * x * (3 - 2 * x) * (y1 - y0) + dt * x * back * (back * f0 - x * f1)
