"""A Runge-Kutta method is data: its Butcher tableau, and what follows from it.

    k_i = f(t + c_i dt, y + dt sum_{j<i} a_ij k_j),      y1 = y + dt sum_i b_i k_i,
    error = dt sum_i (b_i - b_low_i) k_i,                y(t + dt/2) ~ y + dt sum_i b_mid_i k_i

Numbers are given as fractions where the method is rational, so that order conditions can be checked exactly, and as
decimal strings at full printed length where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

Number = Fraction | int | float | str


def to_float(x: Number) -> float:
    """The double nearest to an exact or decimal coefficient."""
    return float(x)


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method.

    Args:
        order: order of convergence of ``b``; the controller's exponent is ``1 / order``.
        c, a, b: nodes, strictly lower triangular coefficients (row ``i`` has ``i`` entries) and weights.
        b_low: weights of the embedded method; empty for a fixed-grid method.
        b_error: weights of the error estimate when they are published as such; otherwise ``b - b_low``.
        b_mid: weights of ``y(t + dt/2)``, which fixes the quartic of the dense output.
        reuse_last_stage: the last stage serves as the first of the next step. Follows from FSAL; torchdiffeq does it
            for every pair, also for ``adaptive_heun`` and ``fehlberg2``, which are not FSAL, and parity needs it.
        solver: the class name torchdiffeq uses in its warnings.

    Raises:
        ValueError: the lengths do not fit, or a row of ``a`` does not sum to its node.
    """

    order: int
    c: Sequence[Number]
    a: Sequence[Sequence[Number]]
    b: Sequence[Number]
    b_low: Sequence[Number] = ()
    b_error: Sequence[Number] = ()
    b_mid: Sequence[Number] = ()
    reuse_last_stage: bool = False
    solver: str = ""

    #: the same numbers as doubles
    nodes: list[float] = field(init=False, repr=False)
    matrix: list[list[float]] = field(init=False, repr=False)
    weights: list[float] = field(init=False, repr=False)
    error_weights: list[float] = field(init=False, repr=False)
    mid_weights: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stages = len(self.b)
        if len(self.c) != stages or len(self.a) != stages:
            raise ValueError(f"tableau: b has {stages} entries, c has {len(self.c)}, a has {len(self.a)} rows")
        if any(len(row) != i for i, row in enumerate(self.a)):
            raise ValueError("tableau: row i of `a` needs i entries")
        put = object.__setattr__
        put(self, "nodes", [to_float(x) for x in self.c])
        put(self, "matrix", [[to_float(x) for x in row] for row in self.a])
        put(self, "weights", [to_float(x) for x in self.b])
        # The difference is taken between doubles: torchdiffeq does so, and an exact difference would change the
        # last bit of most entries and with it the steps.
        low = [b - to_float(x) for b, x in zip(self.weights, self.b_low, strict=False)]
        put(self, "error_weights", [to_float(x) for x in self.b_error] or low)
        put(self, "mid_weights", [to_float(x) for x in self.b_mid])
        for i, row in enumerate(self.matrix):
            if abs(sum(row) - self.nodes[i]) > 1e-12:
                raise ValueError(f"tableau: row {i} of `a` sums to {sum(row)}, its node is {self.nodes[i]}")

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return len(self.b)

    @property
    def adaptive(self) -> bool:
        """Whether there is an error estimate."""
        return bool(self.error_weights)

    @property
    def last_stage_is_solution(self) -> bool:
        """SSAL: the last stage is evaluated at the new state, so no separate combination is needed."""
        return self.weights[-1] == 0 and self.matrix[-1] == self.weights[:-1]

    @property
    def first_same_as_last(self) -> bool:
        """FSAL: the last stage of a step is the first of the next."""
        return self.last_stage_is_solution and self.nodes[-1] == 1
