"""Solves in which every row has its own steps, each tile of rows in one kernel from its first step to its last.

The steps are those of :mod:`fastode.loop` with the controller of :mod:`fastode.kernels.reference.control`. A tile runs until
its slowest row has finished; rows that have finished before are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...controller import Controller
from ...kernels.row_state import FINISHED, RowState
from ...tableau import ButcherTableau
from . import source, start
from .attempt import scaled_error, stage_loop
from .coefficients import coefficients_of, rule_of
from .field import Field, body_text, indented, of_rows, whole_numbers
from .fused import FusedProgram
from .refusal import NotFused
from .settings import Settings
from .slopes import MIDPOINT, Slopes, slopes_of
from .state import State

#: what is known of each row, as :class:`RowState` has it
_ARRAYS = ("t", "t1", "dt", "size", "t_end", "status", "n_accepted", "n_rejected")
_WHOLE = ("status", "n_accepted", "n_rejected", "next")
#: what the controller works with, in the order of the scratch memory
_CONTROL = (*_ARRAYS, "last", "before", "next", "err")


def _kernel(field: Field, settings: Settings, stages: int, record: bool) -> Any:
    state = field.state
    slopes = slopes_of(state, stages, settings)
    pointers = [
        *("y", "slope", "rtol", "atol", "rule", "nodes", "coefficients", "scratch"),
        *(f"{x}_of_rows" for x in (*_ARRAYS, "history", "next")),
        *("times", "out"),
        *slopes.parameters,
        *(("recorded_times", "recorded_states") if record else ()),
    ]
    numbers = ["count", "row_stride", "feature_stride", "stages", "max_steps", "n_times"]
    numbers += ["capacity"] if record else []
    width = state.features
    lines = [
        *field.begin(),
        f"control = scratch + tl.program_id(0).to(tl.int64) * ({len(_CONTROL)} * ROWS) + tl.arange(0, ROWS)",
        *state.load("y", of_rows("y", width)),
        *state.load("start", of_rows("slope", width)),
        *slopes.set_first(state.names("start")),
        *_begin_control(),
        *_outputs_at_start(state),
        "attempts = n_accepted + n_rejected",
        "t1, dt, size, status = propose_rows(t, t_end, size, status, attempts, rule, max_steps)",
        *_put_away(_CONTROL[:-1]),
        "while tl.max((dt != 0.0).to(tl.int32), 0) > 0:",
        *indented(_step(field, slopes, settings, record)),
        *state.store(state.names("y"), of_rows("y", width)),
        *_end_control(),
    ]
    parameters = [*pointers, *whole_numbers(numbers), *field.parameters, "ROWS: tl.constexpr"]
    return source.kernel("solve_rows", parameters, body_text(lines), numbers, pointers)


def _begin_control() -> list[str]:
    """Lines that read what is known of the rows; those beyond the batch have finished."""
    history = of_rows("history_of_rows", 2)
    other = {"status": f"{FINISHED}", **dict.fromkeys(("n_accepted", "n_rejected", "next"), "0")}
    return [
        *[
            f"{x} = tl.load({of_rows(f'{x}_of_rows')}, mask=live, other={other.get(x, '0.0')}){'.to(tl.int32)' if x in _WHOLE else ''}"
            for x in (*_ARRAYS, "next")
        ],
        f"last = tl.load({history}, mask=live, other=1.0)",
        f"before = tl.load({history} + 1, mask=live, other=1.0)",
    ]


def _end_control() -> list[str]:
    """Lines that leave the rows as they are now."""
    history = of_rows("history_of_rows", 2)
    return [
        *_take_out(),
        *[f"tl.store({of_rows(f'{x}_of_rows')}, {x}, mask=live)" for x in (*_ARRAYS, "next")],
        f"tl.store({history}, last, mask=live)",
        f"tl.store({history} + 1, before, mask=live)",
    ]


def _put_away(names: Sequence[str]) -> list[str]:
    """Lines that put the controller's numbers into the tile's scratch memory, all as float64.

    The stages need the registers. What a row needs lies side by side there, so that one address serves for all, and is read
    by one thread a row: in registers the numbers would lie as the slopes do, several times over. The barrier is there because
    another thread may read what one has written.
    """
    places = {x: i for i, x in enumerate(_CONTROL)}
    stores = [f"tl.store(control + {places[x]} * ROWS, {x}.to(tl.float64))" for x in names]
    return [*stores, "tl.debug_barrier()"]


def _take_out() -> list[str]:
    """Lines that read them again."""
    loads = []
    for i, x in enumerate(_CONTROL):
        cast = ".to(tl.int32)" if x in _WHOLE else ""
        loads.append(f"{x} = tl.load(control + {i} * ROWS){cast}")
    return [*loads, "tl.debug_barrier()"]


def _due() -> str:
    """The line that finds the next time of output; NaN after the last."""
    times = of_rows("times", "n_times")
    return f'due = tl.load({times} + next, mask=live & (next < n_times), other=float("nan"))'


def _outputs_at_start(state: State) -> list[str]:
    """Lines that write the state at the start where that is a time of output; twice where a span is empty."""
    return [
        _due(),
        "at_start = due == t",
        "while tl.max(at_start.to(tl.int32), 0) > 0:",
        *indented(
            [
                *state.store(state.names("y"), _place_of_output(state), "at_start"),
                "next += at_start.to(tl.int32)",
                _due(),
                "at_start = at_start & (due == t)",
            ]
        ),
    ]


def _place_of_output(state: State) -> str:
    return f"(out + first * n_times * {state.features} + (lane * n_times + next) * {state.features})"


def _step(field: Field, slopes: Slopes, settings: Settings, record: bool) -> list[str]:
    """Lines of one attempt: stages, error, controller, record, outputs, new state."""
    state = field.state
    return [
        f"h = dt.to({state.dtype})",
        *stage_loop(field, slopes, settings, 1, "{h}"),
        *scaled_error(field, slopes, "{h}"),
        f"err = tl.sqrt(({state.sum_of_squares('error')}).to(tl.float64) / {state.features})",
        *_put_away(["err"]),
        *_take_out(),
        "t_before, dt_before, t1_before, place = t, dt, t1, n_accepted",
        "accept, t, t1, dt, size, last, before, status, n_accepted, n_rejected = control_rows(",
        "    err, t, t1, dt, size, last, before, status, n_accepted, n_rejected, t_end, rule, max_steps",
        ")",
        *(_record(state) if record else []),
        *slopes.get(0, "start"),
        *slopes.get(slopes.stages - 1, "final"),
        *_outputs(state, slopes),
        *_put_away(_CONTROL[:-1]),
        *state.each("y", "tl.where({accept}, {s}, {y})", ["y", "s"], ["accept"]),
        *state.each("start", "tl.where({accept}, {final}, {start})", ["start", "final"], ["accept"]),
        *slopes.set_first(state.names("start")),
    ]


def _record(state: State) -> list[str]:
    """Lines that keep an accepted step; those beyond the capacity are only counted."""
    width = state.features
    return [
        "kept = accept & (place < capacity)",
        "recorded = recorded_times + first * capacity * 3 + (lane * capacity + place) * 3",
        "tl.store(recorded, t_before, mask=kept)",
        "tl.store(recorded + 1, dt_before, mask=kept)",
        "tl.store(recorded + 2, t1_before, mask=kept)",
        *state.store(
            state.names("y"),
            f"(recorded_states + first * capacity * {width} + (lane * capacity + place) * {width})",
            "kept",
        ),
    ]


def _outputs(state: State, slopes: Slopes) -> list[str]:
    """Lines that write dense output at the times that accepted steps passed: the quartic, and its end as it is."""
    quartic = "{y} + ({across} * ({s} - {y}) + {h} * ({middle} * {sum} + {begins} * {start} + {ends} * {final}))"
    vectors = ["y", "s", "sum", "start", "final"]
    per_row = ["at_end", "across", "middle", "begins", "ends", "h"]
    passed = "tl.where(dt_before < 0.0, due >= t1_before, due <= t1_before)"
    return [
        _due(),
        f"passed = accept & {passed}",
        "while tl.max(passed.to(tl.int32), 0) > 0:",
        *indented(
            [
                *slopes.sum(MIDPOINT),
                "at_end = due == t1_before",
                "across, middle, begins, ends = quartic_weights((due - t_before) / dt_before)",
                *[f"{w} = {w}.to({state.dtype})" for w in ("across", "middle", "begins", "ends")],
                *state.each("between", f"tl.where({{at_end}}, {{s}}, {quartic})", vectors, per_row),
                *state.store(state.names("between"), _place_of_output(state), "passed"),
                "next += passed.to(tl.int32)",
                _due(),
                f"passed = passed & {passed}",
            ]
        ),
    ]


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


def _check_places(program: FusedProgram, n_times: int, capacity: int) -> None:
    """Whether places in a tile's outputs and records are numbers of 32 bits.

    Raises:
        NotFused: they are not.
    """
    for what, count in (("times of output", n_times), ("recorded steps", capacity)):
        if count * program.settings.rows * max(3, program.features) >= 2**31:
            raise NotFused(f"{count} {what} of {program.features} features in tiles of {program.settings.rows} rows")


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
    _check_places(program, times.shape[1], 0 if record is None else record.times.shape[1])
    numbers = coefficients_of(tableau, program.dtype, y.device)
    rule = rule_of(controller, y.device)
    rtol, atol = tolerances
    strides = (program.features, 1) if rtol.numel() > 1 else (0, 0)
    inputs = program.inputs(arguments, constants)
    slope = torch.empty_like(y)
    tiles = program.grid(rows)
    begin = program.kernel(start.kernel)
    # whether a first step is missing is not known to the host; one evaluation more costs less than to ask
    begin[tiles](
        y, slope, state.t, state.t_end, state.size, rtol, atol, rule, rows, *strides, 2, *inputs, **program.launch
    )
    run = program.kernel(_kernel, stages, record is not None)
    arrays = [getattr(state, x) for x in (*_ARRAYS, "history")]
    scratch = torch.empty((*tiles, len(_CONTROL), program.settings.rows), dtype=torch.float64, device=y.device)
    run[tiles](
        *(y, slope, rtol, atol, rule, numbers.nodes, numbers.lines, scratch),
        *arrays,
        *(next_output, times, out),
        *program.slopes(rows, stages, y.device),
        *(() if record is None else (record.times, record.states)),
        *(rows, *strides, stages, max_steps, times.shape[1]),
        *(() if record is None else (record.times.shape[1],)),
        *inputs,
        **program.launch,
    )
