"""What the kernels of one solve are bound to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..tableau import ButcherTableau
from ..tree import Parts
from .norms import Norm
from .reference.finish import Tolerance


@dataclass(frozen=True)
class Binding:
    """A method, a kind of state and its tolerances.

    Attributes:
        tableau: the method.
        like: the state's parts: shapes, dtype, device.
        rtol, atol: per part, numbers or tensors of the part's shape.
        norm: a name of :data:`fastode.kernels.norms.NAMED_NORMS` or a user's norm.
        anchor: 0-dim tensor of value 0 whose gradient is that of every step's time, or None.
        controlled: how many leading parts enter the error norm; None for all.
        quadratures: how many trailing parts the field does not depend on: they need no stages, only a new state.
        rows: number of rows that have a step size each; None for one step size.
    """

    tableau: ButcherTableau
    like: Parts
    rtol: Sequence[Tolerance]
    atol: Sequence[Tolerance]
    norm: Norm = "rms"
    anchor: Tensor | None = None
    controlled: int | None = None
    quadratures: int = 0
    rows: int | None = None

    @classmethod
    def replaying(cls, tableau: ButcherTableau, y: Parts) -> Binding:
        """Of steps of rows whose errors are known to pass."""
        none = [0.0] * len(y)
        return cls(tableau, y, none, none, rows=len(y[0]))
