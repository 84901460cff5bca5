"""Implicit Runge-Kutta methods for stiff problems, on fixed grids; option ``max_iters`` (100).

| name | order | stages | stability | reference |
| --- | --- | --- | --- | --- |
| implicit_euler | 1 | 1 | L | |
| implicit_midpoint | 2 | 1 | A, symplectic | |
| trapezoid | 2 | 2, the first explicit | A | |
| sdirk2 | 2 | 2 | L | Alexander, SIAM J. Numer. Anal. 14, 1977 |
| trbdf2 | 2 | 3, the first explicit | L | Bank et al., IEEE Trans. CAD 4, 1985 |
| radauIIA3, radauIIA5 | 3, 5 | 2, 3 | L | Hairer, Wanner, "Solving ODEs II", IV.5, tables 5.5, 5.6 |
| gl4, gl6 | 4, 6 | 2, 3 | A, symplectic | Hairer, Norsett, Wanner, "Solving ODEs I", II.7, tables 7.3, 7.4 |

torchdiffeq's ``gl4`` has its first node twice, which makes it a method of order 1; the nodes here are 1/2 -+ sqrt(3)/6.
"""

from __future__ import annotations

import math
from fractions import Fraction as F
from typing import Any

from ..implicit_rk import ImplicitStepper, ImplicitTableau
from ..kernels import Engine
from ..problem import Problem
from . import GridMethod

_R2, _R3, _R6, _R15 = (math.sqrt(x) for x in (2, 3, 6, 15))
_G = 1 - _R2 / 2  # the root of g^2 - 2 g + 1/2 that makes two equal diagonal entries L-stable
_W = _R2 / 4

TABLEAUS = {
    "implicit_euler": ImplicitTableau(1, (1,), ((1,),), (1,), "ImplicitEuler"),
    "implicit_midpoint": ImplicitTableau(2, (F(1, 2),), ((F(1, 2),),), (1,), "ImplicitMidpoint"),
    "trapezoid": ImplicitTableau(2, (0, 1), ((0, 0), (F(1, 2), F(1, 2))), (F(1, 2), F(1, 2)), "Trapezoid"),
    "sdirk2": ImplicitTableau(2, (_G, 1), ((_G, 0), (1 - _G, _G)), (1 - _G, _G), "SDIRK2"),
    "trbdf2": ImplicitTableau(2, (0, 2 * _G, 1), ((0, 0, 0), (_G, _G, 0), (_W, _W, _G)), (_W, _W, _G), "TRBDF2"),
    "radauIIA3": ImplicitTableau(
        3,
        (F(1, 3), 1),
        ((F(5, 12), F(-1, 12)), (F(3, 4), F(1, 4))),
        (F(3, 4), F(1, 4)),
        "RadauIIA3",
    ),
    "radauIIA5": ImplicitTableau(
        5,
        ((4 - _R6) / 10, (4 + _R6) / 10, 1),
        (
            ((88 - 7 * _R6) / 360, (296 - 169 * _R6) / 1800, (-2 + 3 * _R6) / 225),
            ((296 + 169 * _R6) / 1800, (88 + 7 * _R6) / 360, (-2 - 3 * _R6) / 225),
            ((16 - _R6) / 36, (16 + _R6) / 36, F(1, 9)),
        ),
        ((16 - _R6) / 36, (16 + _R6) / 36, F(1, 9)),
        "RadauIIA5",
    ),
    "gl4": ImplicitTableau(
        4,
        (0.5 - _R3 / 6, 0.5 + _R3 / 6),
        ((F(1, 4), 0.25 - _R3 / 6), (0.25 + _R3 / 6, F(1, 4))),
        (F(1, 2), F(1, 2)),
        "GaussLegendre4",
    ),
    "gl6": ImplicitTableau(
        6,
        (0.5 - _R15 / 10, F(1, 2), 0.5 + _R15 / 10),
        (
            (F(5, 36), 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
            (5 / 36 + _R15 / 24, F(2, 9), 5 / 36 - _R15 / 24),
            (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, F(5, 36)),
        ),
        (F(5, 18), F(4, 9), F(5, 18)),
        "GaussLegendre6",
    ),
}


def _method(tableau: ImplicitTableau) -> GridMethod:
    def make(problem: Problem, engine: Engine, options: dict[str, Any]) -> ImplicitStepper:
        return ImplicitStepper(problem, tableau, int(options.get("max_iters", 100)))

    return GridMethod(tableau.order, make, frozenset({"max_iters"}), tableau.solver)


METHODS = {name: _method(tableau) for name, tableau in TABLEAUS.items()}
