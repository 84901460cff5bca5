"""Bogacki-Shampine 3(2): 3rd order, 4 stages, FSAL; quartic dense output through a 1st-order midpoint.

Bogacki, Shampine, "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Lett. 2(4), 1989. The midpoint is torchdiffeq's.
"""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(
    order=3,
    c=(0, F(1, 2), F(3, 4), 1),
    a=((), (F(1, 2),), (0, F(3, 4)), (F(2, 9), F(1, 3), F(4, 9))),
    b=(F(2, 9), F(1, 3), F(4, 9), 0),
    b_low=(F(7, 24), F(1, 4), F(1, 3), F(1, 8)),
    b_mid=(0, F(1, 2), 0, 0),
    reuse_last_stage=True,
    solver="Bosh3Solver",
)
