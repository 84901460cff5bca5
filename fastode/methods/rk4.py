"""Kutta's 3/8 rule: 4th order, 4 stages, on a fixed grid.

torchdiffeq's ``rk4`` is this rule and not the classic tableau. Kutta, Z. Math. Phys. 46, 1901.
"""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(
    order=4,
    c=(0, F(1, 3), F(2, 3), 1),
    a=((), (F(1, 3),), (F(-1, 3), 1), (1, -1, 1)),
    b=(F(1, 8), F(3, 8), F(3, 8), F(1, 8)),
    solver="RK4",
)
