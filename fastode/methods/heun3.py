"""Heun's 3rd-order method: 3 stages, on a fixed grid. Heun, Z. Math. Phys. 45, 1900."""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(
    order=3,
    c=(0, F(1, 3), F(2, 3)),
    a=((), (F(1, 3),), (0, F(2, 3))),
    b=(F(1, 4), 0, F(3, 4)),
    solver="Heun3",
)
