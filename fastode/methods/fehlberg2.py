"""Runge-Kutta-Fehlberg 2(1): 2nd order, 3 stages; quartic dense output through y + dt/2 k_2.

Fehlberg, "Low-order classical Runge-Kutta formulas with stepsize control", NASA TR R-315, 1969. The published pair
is of order 1 with a 2nd-order companion; torchdiffeq advances with the weights (1/512, 255/256, 1/512). Not FSAL; the
last stage is reused as in torchdiffeq (see ``adaptive_heun``).
"""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(
    order=2,
    c=(0, F(1, 2), 1),
    a=((), (F(1, 2),), (F(1, 256), F(255, 256))),
    b=(F(1, 512), F(255, 256), F(1, 512)),
    b_error=(F(-1, 512), 0, F(1, 512)),
    b_mid=(0, F(1, 2), 0),
    reuse_last_stage=True,
    solver="Fehlberg2",
)
