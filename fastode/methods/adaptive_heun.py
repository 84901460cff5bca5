"""Heun-Euler 2(1): 2nd order, 2 stages; quartic dense output through torchdiffeq's midpoint y + dt/2 k_1.

Not FSAL: torchdiffeq nevertheless starts the next step with the last stage, f(t1, y + dt k_1), and parity keeps that.
It costs one evaluation a step less and leaves the order unchanged.
"""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(
    order=2,
    c=(0, 1),
    a=((), (1,)),
    b=(F(1, 2), F(1, 2)),
    b_error=(F(1, 2), F(-1, 2)),
    b_mid=(F(1, 2), 0),
    reuse_last_stage=True,
    solver="AdaptiveHeunSolver",
)
