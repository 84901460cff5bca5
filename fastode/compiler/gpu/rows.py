"""Solves in which every row has its own steps, each tile of rows in one kernel from its first step to its last.

The steps are those of :mod:`fastode.loop` with the controller of :mod:`fastode.kernels.reference.control`. A tile runs
until its slowest row has finished; rows that have finished before are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...controller import Controller
from ...kernels.row_state import RowState
from ...tableau import ButcherTableau
from . import row_kernel, start
from .coefficients import coefficients_of, rule_of
from .fused import FusedProgram
from .refusal import NotFused
from .settings import Settings


@dataclass(frozen=True)
class RowRecord:
    """Accepted steps, in the order in which they were taken.

    Attributes:
        times: [R, C, 3] float64; start, signed size and end of each step.
        states: [R, C, features]; the state at its start.
    """

    times: Tensor
    states: Tensor

    @classmethod
    def for_steps(cls, y: Tensor, capacity: int) -> RowRecord:
        """Room for ``capacity`` steps of every row of ``y`` [R, features]."""
        times = torch.empty((len(y), capacity, 3), dtype=torch.float64, device=y.device)
        return cls(times, torch.empty((len(y), capacity, y.shape[1]), dtype=y.dtype, device=y.device))

    def missing(self, state: RowState) -> int:
        """How many more steps there should have been room for; 0 if all of them are here. Waits for the solve."""
        most = int(state.n_accepted.max()) if len(state) else 0
        return max(0, most - self.times.shape[1])


def check_places(settings: Settings, features: int, n_times: int, capacity: int) -> None:
    """Whether places in a tile's outputs and records are numbers of 32 bits.

    Raises:
        NotFused: they are not.
    """
    for what, count in (("times of output", n_times), ("recorded steps", capacity)):
        if count * settings.rows * max(3, features) >= 2**31:
            raise NotFused(f"{count} {what} of {features} features in tiles of {settings.rows} rows")


def solve_rows(
    program: FusedProgram,
    tableau: ButcherTableau,
    y: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    state: RowState,
    tolerances: tuple[Tensor, Tensor],
    controller: Controller,
    max_steps: int,
    times: Tensor,
    next_output: Tensor,
    out: Tensor,
    record: RowRecord | None = None,
) -> None:
    """Every row from where ``state`` has it to its end; in place.

    Args:
        tableau: with an error estimate, whose last stage is at the new state.
        y: [R, features] contiguous; where the rows are, which becomes where they stopped.
        arguments, constants: see :func:`.evaluate.evaluate`.
        state: times, counters and status; a ``size`` of NaN is chosen.
        tolerances: relative and absolute, of the state's dtype; [1] each, or [R, features] contiguous.
        max_steps: limit on the attempts of a row.
        times: [R, T] float64; of the outputs as the row runs, NaN after the last.
        next_output: [R] int64, zeros; becomes how many of them were reached.
        out: [R, T, features]; what is not reached is left as it is.
        record: where accepted steps are kept, or None.

    Raises:
        NotFused: steps must end at given times, or the tableau is of another kind.
    """
    if not (tableau.adaptive and tableau.last_stage_is_solution):
        raise NotFused("a method without an error estimate, or whose last stage is not at the new state")
    if state.stops.shape[1]:
        raise NotFused("times on which steps must end")
    rows, stages = len(y), tableau.stages
    if not rows:
        return
    capacity = 0 if record is None else record.times.shape[1]
    check_places(program.settings, program.features, times.shape[1], capacity)
    numbers = coefficients_of(tableau, program.dtype, y.device)
    rule = rule_of(controller, y.device)
    rtol, atol = tolerances
    strides = (program.features, 1) if rtol.numel() > 1 else (0, 0)
    inputs = program.inputs(arguments, constants)
    slope = torch.empty_like(y)
    # whether a first step is missing is not known to the host; one evaluation more costs less than to ask
    evaluations = 2
    program.run(
        program.kernel(start.kernel),
        rows,
        *(y, slope, state.t, state.t_end, state.size, rtol, atol, rule),
        *(rows, *strides, evaluations),
        *inputs,
    )
    arrays = [getattr(state, x) for x in (*row_kernel.ARRAYS, "history")]
    shape = (*program.grid(rows), len(row_kernel.CONTROL), program.settings.rows)
    scratch = torch.empty(shape, dtype=torch.float64, device=y.device)
    program.run(
        program.kernel(row_kernel.kernel, stages, record is not None),
        rows,
        *(y, slope, rtol, atol, rule, numbers.nodes, numbers.lines, scratch),
        *arrays,
        *(next_output, times, out),
        *program.slopes(rows, stages, y.device),
        *(() if record is None else (record.times, record.states)),
        *(rows, *strides, stages, max_steps, times.shape[1]),
        *(() if record is None else (record.times.shape[1],)),
        *inputs,
    )
