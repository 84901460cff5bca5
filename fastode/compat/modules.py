"""What ``import torchdiffeq`` finds while it is patched: one table, module by module."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

from .. import _odeint
from ..perturb import Perturb
from . import adjoint, arguments, norms, registry, solvers, stepping
from .solvers import AdaptiveHeunSolver, Bosh3Solver, Dopri5Solver, Dopri8Solver, Fehlberg2, Tsit5Solver

PACKAGE = "torchdiffeq"
VERSION = "0.2.5"

#: what they are in torchdiffeq, wherever they are here
_NAMES: dict[str, Any] = {
    **vars(_odeint), **vars(norms), **vars(stepping), **vars(arguments), **vars(solvers), **vars(registry),
    **vars(adjoint),
    "Perturb": Perturb,
    "_DORMAND_PRINCE_SHAMPINE_TABLEAU": Dopri5Solver.tableau, "DPS_C_MID": Dopri5Solver.mid,
    "_DOPRI8_TABLEAU": Dopri8Solver.tableau, "_C_mid": Dopri8Solver.mid,
    "_BOGACKI_SHAMPINE_TABLEAU": Bosh3Solver.tableau, "_BS_C_MID": Bosh3Solver.mid,
    "_ADAPTIVE_HEUN_TABLEAU": AdaptiveHeunSolver.tableau, "_AH_C_MID": AdaptiveHeunSolver.mid,
    "_FEHLBERG2_TABLEAU": Fehlberg2.tableau, "_FE_C_MID": Fehlberg2.mid,
    "_TSITOURAS_TABLEAU": Tsit5Solver.tableau, "_TS_C_MID": Tsit5Solver.mid,
    "_MIN_ORDER": 4, "_MAX_ORDER": 12, "_MAX_ITERS": 4,
}  # fmt: skip

_PUBLIC = "odeint odeint_adjoint odeint_event odeint_dense"
_GRID = "Euler Midpoint Heun2 Heun3 RK4"
_STEPS = "rk4_step_func rk4_alt_step_func rk3_step_func rk2_step_func"
_PAIR = "_ButcherTableau RKAdaptiveStepsizeODESolver"

TABLE = {
    "": _PUBLIC,
    "_impl": _PUBLIC,
    "_impl.odeint": f"""SOLVERS odeint odeint_dense odeint_event _check_inputs _flat_to_shape _interp_evaluate {_GRID}
        Dopri5Solver Dopri8Solver Bosh3Solver AdaptiveHeunSolver Fehlberg2 AdamsBashforth AdamsBashforthMoulton
        ScipyWrapperODESolver ImplicitEuler ImplicitMidpoint Trapezoid SDIRK2 TRBDF2 RadauIIA3 RadauIIA5
        GaussLegendre4 GaussLegendre6""",
    "_impl.adjoint": """SOLVERS odeint odeint_adjoint OdeintAdjointMethod find_parameters _check_inputs _flat_to_shape
        _mixed_norm _all_callback_names _all_adjoint_callback_names""",
    "_impl.misc": """Perturb _check_inputs _flat_to_shape _tuple_tol _TupleFunc _TupleInputOnlyFunc _ReverseFunc
        _PerturbFunc _rms_norm _linf_norm _zero_norm _mixed_norm _handle_unused_kwargs _select_initial_step
        _compute_error_ratio _optimal_step_size _assert_increasing _assert_floating _assert_one_dimensional _decreasing
        _check_timelike _nextafter _StitchGradient _flip_option _null_callback _all_callback_names
        _all_adjoint_callback_names combine_event_functions""",
    "_impl.event_handling": "find_event combine_event_functions",
    "_impl.interp": "_interp_fit _interp_evaluate",
    "_impl.solvers": """AdaptiveStepsizeODESolver AdaptiveStepsizeEventODESolver FixedGridODESolver find_event
        _handle_unused_kwargs""",
    "_impl.rk_common": f"""{_PAIR} _RungeKuttaState _runge_kutta_step {_STEPS} _interp_fit _interp_evaluate Perturb
        _compute_error_ratio _select_initial_step _optimal_step_size _sort_tvals AdaptiveStepsizeEventODESolver
        find_event""",
    "_impl.fixed_grid": f"{_GRID} FixedGridODESolver {_STEPS} Perturb",
    "_impl.fixed_adams": """AdamsBashforth AdamsBashforthMoulton FixedGridODESolver rk4_alt_step_func Perturb
        _compute_error_ratio _linf_norm _MIN_ORDER _MAX_ORDER _MAX_ITERS""",
    "_impl.dopri5": f"Dopri5Solver _DORMAND_PRINCE_SHAMPINE_TABLEAU DPS_C_MID {_PAIR}",
    "_impl.dopri8": f"Dopri8Solver _DOPRI8_TABLEAU _C_mid {_PAIR}",
    "_impl.bosh3": f"Bosh3Solver _BOGACKI_SHAMPINE_TABLEAU _BS_C_MID {_PAIR}",
    "_impl.adaptive_heun": f"AdaptiveHeunSolver _ADAPTIVE_HEUN_TABLEAU _AH_C_MID {_PAIR}",
    "_impl.fehlberg2": f"Fehlberg2 _FEHLBERG2_TABLEAU _FE_C_MID {_PAIR}",
    "_impl.tsit5": f"Tsit5Solver _TSITOURAS_TABLEAU _TS_C_MID {_PAIR}",
    "_impl.scipy_wrapper": "ScipyWrapperODESolver",
}


@cache
def modules() -> dict[str, ModuleType]:
    """Stand-ins for torchdiffeq and its submodules, by full name; submodules are attributes of their packages."""
    made = {_full(short): ModuleType(_full(short), f"fastode's {_full(short)}.") for short in TABLE}
    for short, names in TABLE.items():
        name = _full(short)
        module = made[name]
        module.__dict__.update({n: _NAMES[n] for n in names.split()})
        if short in ("", "_impl"):
            module.__path__ = []
    # torchdiffeq's `_impl` names the module `odeint` like the function, which wins
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent and child not in vars(made[parent]):
            setattr(made[parent], child, module)
    made[PACKAGE].__dict__["__version__"] = VERSION
    return made


def _full(short: str) -> str:
    return f"{PACKAGE}.{short}" if short else PACKAGE
