"""Forward Euler: 1st order, 1 stage, on a fixed grid."""

from ..tableau import ButcherTableau

METHOD = ButcherTableau(order=1, c=(0,), a=((),), b=(1,), solver="Euler")
