"""Dormand-Prince 5(4): 5th order, 7 stages, FSAL, local extrapolation; quartic dense output.

Dormand, Prince, "A family of embedded Runge-Kutta formulae", J. Comput. Appl. Math. 6(1), 1980. The embedded weights
are Shampine's ("Some practical Runge-Kutta formulas", Math. Comp. 46, 1986), as is the midpoint; torchdiffeq uses both.
"""

from fractions import Fraction as F

from ..tableau import ButcherTableau

METHOD = ButcherTableau(
    order=5,
    c=(0, F(1, 5), F(3, 10), F(4, 5), F(8, 9), 1, 1),
    a=(
        (),
        (F(1, 5),),
        (F(3, 40), F(9, 40)),
        (F(44, 45), F(-56, 15), F(32, 9)),
        (F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)),
        (F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)),
        (F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84)),
    ),
    b=(F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84), 0),
    b_low=(F(1951, 21600), 0, F(22642, 50085), F(451, 720), F(-12231, 42400), F(649, 6300), F(1, 60)),
    b_mid=(
        F(6025192743, 60171106304),
        0,
        F(51252292925, 130801643196),
        F(-2691868925, 90256659456),
        F(187940372067, 3189068634112),
        F(-1776094331, 39487288512),
        F(11237099, 470086768),
    ),
    reuse_last_stage=True,
    solver="Dopri5Solver",
)
