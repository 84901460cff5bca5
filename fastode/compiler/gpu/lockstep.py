"""Solves in which all rows take the same steps, on the device: a fused attempt, ``control``, ``commit``.

Three launches a step, whatever the field: the attempt has all stages and the error in it. The loop is that of
:mod:`fastode.device`, and so are the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...device.first_step import hairer
from ...device.kept import KeptSteps
from ...device.progress import queue_attempts
from ...kernels.launching import Launches
from ...kernels.reference import rms
from ...kernels.triton import DeviceState, PartialSums, commit, control
from ...kernels.upload import upload
from ...tableau import ButcherTableau
from ...tree import Parts
from .evaluate import evaluate
from .fused import FusedProgram
from .step import Attempt, attempt_step


class FusedAttempt:
    """Attempts of the steps of one solve, queued; see :class:`fastode.device.attempt.Attempt`.

    Args:
        y: [R, features]; overwritten by accepted steps.
        tolerances: relative and absolute, [1] each, of the state's dtype.
        parts: where each part of the state ends, in features; the error norm is the largest of theirs.
        out: [T, R, features]; of the outputs after the start.
    """

    def __init__(
        self,
        program: FusedProgram,
        tableau: ButcherTableau,
        state: DeviceState,
        y: Tensor,
        inputs: tuple[Sequence[Tensor], Sequence[Tensor]],
        tolerances: tuple[Tensor, Tensor],
        parts: Sequence[int],
        out: Tensor,
    ) -> None:
        self.program, self.tableau, self.state = program, tableau, state
        self.y: Parts = (y,)
        self.k_first = torch.empty_like(y)
        self.inputs, self.tolerances, self.parts, self.out = inputs, tolerances, tuple(parts), out[None]
        self.partial = _partial_sums(program, y, self.parts)
        self.into = Attempt(torch.empty_like(y), torch.empty_like(y), torch.empty_like(y), self.partial.sums)
        self.times = tuple([state.real(name) for name in ("t", "dt", "t1")])
        self.kept: tuple[Parts, Tensor, int] | None = None
        #: launches that differ from attempt to attempt in their tensors only
        self.launches = Launches()

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """The field at ``t`` (0-dim, float64)."""
        return evaluate(self.program, t, y, *self.inputs)

    def start(self) -> None:
        """Propose the first step."""
        control(self.state, self.partial, (), lockstep=True, start=True)

    def __call__(self) -> None:
        """Queue an attempt; after the end of the solve it changes nothing."""
        t, dt, t1 = self.times
        y, tried = self.y[0], self.into
        attempt_step(
            self.program, self.tableau, (t, dt, t1), y, self.k_first, *self.inputs, self.tolerances, self.parts, tried,
            self.launches("attempt"),
        )  # fmt: skip
        control(self.state, self.partial, (), lockstep=True, launch=self.launches("control"))
        kept = None if self.kept is None else (self.kept[0][0], *self.kept[1:])
        slopes = (self.k_first, tried.last_slope)
        commit(y, tried.y1, slopes, self.state, self.out, (0.0, 0.0), None, kept, tried.y_mid, self.launches("commit"))


def _partial_sums(program: FusedProgram, y: Tensor, parts: Sequence[int]) -> PartialSums:
    (tiles,) = program.grid(len(y))
    first = tuple([tiles * i for i in range(len(parts) + 1)])
    widths = [end - begin for begin, end in zip((0, *parts), parts, strict=False)]
    return PartialSums(
        torch.zeros(tiles * len(parts), 1, dtype=torch.float64, device=y.device),
        upload(torch.tensor(first, dtype=torch.int32), y.device),
        upload(torch.tensor([float(len(y) * w) for w in widths], dtype=torch.float64), y.device),
        first,
        lockstep=True,
    )


def solve_lockstep(
    attempt: FusedAttempt, direction: float, first_step: float, keep: bool
) -> tuple[int, KeptSteps | None]:
    """Take all steps; how many attempts were queued, and the accepted steps if they are kept.

    Args:
        first_step: 0 for Hairer's heuristic.
    """
    state, y = attempt.state, attempt.y[0]
    attempt.k_first = attempt.slope(state.real("t")[0], y)
    if first_step:
        state.real("size").fill_(first_step)
    else:
        rtol, atol = attempt.tolerances
        scale = atol + rtol * y.abs()
        bounds = list(zip((0, *attempt.parts), attempt.parts, strict=False))

        def norm(values: Sequence[Tensor]) -> Tensor:
            ratio = values[0] / scale
            return torch.stack([rms(ratio[:, a:b]) for a, b in bounds]).amax()

        def slope(t: Tensor, z: Parts) -> Parts:
            return (attempt.slope(t, z[0]),)

        order = attempt.tableau.order
        size = hairer(norm, slope, (y,), (attempt.k_first,), state.real("t")[0], direction, order)
        state.real("size").copy_(size)
    attempt.start()
    kept = KeptSteps(attempt) if keep else None

    def queue(count: int) -> None:
        for _ in range(count):
            attempt()

    return queue_attempts(queue, state, kept), kept
