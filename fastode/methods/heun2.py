"""Heun's 2nd-order method (explicit trapezoid): 2 stages, on a fixed grid."""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(order=2, c=(0, 1), a=((), (1,)), b=(F(1, 2), F(1, 2)), solver="Heun2")
