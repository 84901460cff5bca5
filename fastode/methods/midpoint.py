"""Explicit midpoint rule: 2nd order, 2 stages, on a fixed grid."""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(order=2, c=(0, F(1, 2)), a=((), (F(1, 2),)), b=(0, 1), solver="Midpoint")
