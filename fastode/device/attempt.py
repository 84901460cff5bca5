"""One attempt of a step, queued: nothing here waits for the device.

    S - 1 x (stage, evaluation) -> finish -> control -> commit

``control`` has written the times of the stages when it proposed the step, so that beyond the evaluations a step of
``dopri5`` is nine launches for a state of one part: six stages, finish, control, commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..kernels.launching import Launches
from ..kernels.triton import DeviceState, PartialSums, Tolerances, commit, control, finish, stage
from ..problem import Problem
from ..tableau import ButcherTableau
from ..tree import Parts


class Attempt:
    """The attempts of one solve, on buffers that stay where they are.

    Args:
        state: of the rows; one row in lockstep.
        y, k_first: the state and the slope there, contiguous; both are overwritten by accepted steps.
        out: for each part where its outputs go, [R, T, ...].
        places: [R] which rows of ``out`` the rows are, or None for the same.
        fresh: the first slope is evaluated in every attempt; in the first one only if it is not ``known``.

    Attributes:
        kept: where accepted steps go, as :func:`fastode.kernels.triton.commit` takes it for each part; or None.
    """

    def __init__(
        self,
        problem: Problem,
        tableau: ButcherTableau,
        state: DeviceState,
        y: Parts,
        k_first: Parts,
        out: Parts,
        *,
        lockstep: bool,
        places: Tensor | None = None,
        fresh: bool = False,
        known: bool = True,
    ) -> None:
        self.field, self.tableau, self.state, self.lockstep = problem.field, tableau, state, lockstep
        self.y, self.k_first, self.out, self.places = y, k_first, out, places
        self.partial = PartialSums.of(y[: problem.controlled], len(state), lockstep)
        self.tolerances = Tolerances(y, problem.rtol, problem.atol).pairs
        self.dt = state.real("dt")
        self.times = [time[0] if lockstep else time for time in state.times.unbind(0)]
        self.staged = len(y) - problem.quadratures
        self.fresh, self.known = fresh, known
        self.kept: tuple[Parts, Tensor, int] | None = None
        #: its launches, which differ from attempt to attempt in their tensors only
        self.launches = Launches()

    def start(self) -> None:
        """Propose the first step."""
        control(self.state, self.partial, self.tableau.nodes, self.lockstep, start=True)

    def __call__(self) -> None:
        """Queue an attempt; of rows that have stopped it changes nothing."""
        self.commit(*self.judge())

    def judge(self) -> tuple[Parts, list[Parts]]:
        """The attempt up to the decision: the new state and the slopes."""
        if self.fresh and not self.known:
            self.k_first = self.field(self.times[0], self.y)
        self.known = False
        tableau, y, last, launches = self.tableau, self.y, self.tableau.stages - 1, self.launches
        k: list[Parts] = [self.k_first]
        z: Parts = y
        for i in range(1, tableau.stages):
            n = len(y) if i == last else self.staged
            weights = tableau.matrix[i]
            parts = [stage(p, self.dt, _of_part(k, j), weights, launches((i, j))) for j, p in enumerate(y[:n])]
            z = (*parts, *y[n:])
            k.append(self.field(self.times[i], z))
        write = not tableau.last_stage_is_solution
        y1 = z
        controlled = len(self.partial.first) - 1
        if write:
            rest = [stage(p, self.dt, _of_part(k, j), tableau.weights) for j, p in enumerate(y) if j >= controlled]
            y1 = (*[p.new_empty(p.shape) for p in y[:controlled]], *rest)
        for j in range(controlled):
            finish(
                y[j], y1[j], write, self.dt, _of_part(k, j), tableau.weights, tableau.error_weights,
                self.tolerances[j], self.partial, j, launches(("finish", j)),
            )  # fmt: skip
        control(self.state, self.partial, tableau.nodes, self.lockstep, launch=launches("control"))
        return y1, k

    def commit(self, y1: Parts, k: Sequence[Parts]) -> None:
        """What follows from the decision."""
        for j, out in enumerate(self.out):
            kept = None if self.kept is None else (self.kept[0][j], *self.kept[1:])
            commit(
                self.y[j], y1[j], _of_part(k, j), self.state, out, self.tableau.mid_weights, self.places, kept,
                launch=self.launches(("commit", j)),
            )  # fmt: skip


def _of_part(k: Sequence[Parts], part: int) -> list[Tensor]:
    return [slopes[part] for slopes in k]
