"""The text of the kernel of rows: steps, controller, record and outputs of one tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...kernels.row_state import FINISHED
from . import source
from .attempt import scaled_error, stage_loop
from .field import Field, body_text, indented, of_rows, whole_numbers
from .settings import Settings
from .slopes import MIDPOINT, Slopes, slopes_of
from .state import State

#: what is known of each row, as :class:`RowState` has it
ARRAYS = ("t", "t1", "dt", "size", "t_end", "status", "n_accepted", "n_rejected")
_WHOLE = ("status", "n_accepted", "n_rejected", "next")
#: what the controller works with, in the order of the scratch memory
CONTROL = (*ARRAYS, "last", "before", "next", "err")


def kernel(field: Field, settings: Settings, stages: int, record: bool) -> Any:
    """The kernel, for a method with so many stages; with or without a record of the steps."""
    state = field.state
    slopes = slopes_of(state, stages, settings)
    pointers = [
        *("y", "slope", "rtol", "atol", "rule", "nodes", "coefficients", "scratch"),
        *(f"{x}_of_rows" for x in (*ARRAYS, "history", "next")),
        *("times", "out"),
        *slopes.parameters,
        *(("recorded_times", "recorded_states") if record else ()),
    ]
    numbers = ["count", "row_stride", "feature_stride", "stages", "max_steps", "n_times"]
    numbers += ["capacity"] if record else []
    width = state.features
    lines = [
        *field.begin(),
        f"control = scratch + tl.program_id(0).to(tl.int64) * ({len(CONTROL)} * ROWS) + tl.arange(0, ROWS)",
        *state.load("y", of_rows("y", width)),
        *state.load("start", of_rows("slope", width)),
        *slopes.set_first(state.names("start")),
        *_begin_control(),
        *_outputs_at_start(state),
        "attempts = n_accepted + n_rejected",
        "t1, dt, size, status = propose_rows(t, t_end, size, status, attempts, rule, max_steps)",
        *_put_away(CONTROL[:-1]),
        "while tl.max((dt != 0.0).to(tl.int32), 0) > 0:",
        *indented(_step(field, slopes, record)),
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
            f"{x} = tl.load({of_rows(f'{x}_of_rows')}, mask=live, other={other.get(x, '0.0')}){_cast(x)}"
            for x in (*ARRAYS, "next")
        ],
        f"last = tl.load({history}, mask=live, other=1.0)",
        f"before = tl.load({history} + 1, mask=live, other=1.0)",
    ]


def _end_control() -> list[str]:
    """Lines that leave the rows as they are now."""
    history = of_rows("history_of_rows", 2)
    return [
        *_take_out(),
        *[f"tl.store({of_rows(f'{x}_of_rows')}, {x}, mask=live)" for x in (*ARRAYS, "next")],
        f"tl.store({history}, last, mask=live)",
        f"tl.store({history} + 1, before, mask=live)",
    ]


def _put_away(names: Sequence[str]) -> list[str]:
    """Lines that put the controller's numbers into the tile's scratch memory, all as float64.

    The stages need the registers. One address serves for all numbers of a row, and one thread a row reads them: in
    registers they would lie as the slopes do, several times over. The barrier is there because another thread may read
    what one has written.
    """
    places = {x: i for i, x in enumerate(CONTROL)}
    stores = [f"tl.store(control + {places[x]} * ROWS, {x}.to(tl.float64))" for x in names]
    return [*stores, "tl.debug_barrier()"]


def _take_out() -> list[str]:
    """Lines that read them again."""
    loads = [f"{x} = tl.load(control + {i} * ROWS){_cast(x)}" for i, x in enumerate(CONTROL)]
    return [*loads, "tl.debug_barrier()"]


def _cast(name: str) -> str:
    """The counts of a row need no 64 bits in registers."""
    return ".to(tl.int32)" if name in _WHOLE else ""


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


def _step(field: Field, slopes: Slopes, record: bool) -> list[str]:
    """Lines of one attempt: stages, error, controller, record, outputs, new state."""
    state = field.state
    return [
        f"h = dt.to({state.dtype})",
        *stage_loop(field, slopes, 1, "{h}"),
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
        *_put_away(CONTROL[:-1]),
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
