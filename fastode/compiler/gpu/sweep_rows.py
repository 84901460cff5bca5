"""The discrete adjoint of solves in which every row has its own steps, each tile of rows in one kernel.

A tile begins with the last step of the row that took most. Rows that have no such step, or on whose cotangent nothing
depends, are masked: the field need not be finite there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...tableau import ButcherTableau
from .adjoint_field import AdjointField
from .coefficients import coefficients_of
from .field import indented, of_rows
from .fused_sweep import FusedSweep, Swept, sweep_kernel, weighted_stages
from .refusal import NotFused
from .reverse import begin_arguments, end_arguments, reverse_step
from .rows import RowRecord, check_places
from .settings import Settings
from .stage_memory import StageMemory
from .state import State

_POINTERS = ("recorded_times", "recorded_states", "steps_of_rows", "times", "reached", "grad_out")


def _kernel(field: AdjointField, settings: Settings, stages: int) -> Any:
    state, memory = field.state, StageMemory(field.state, field.seen, stages)
    load_state = field.seen.load("y", _place("recorded_states", "capacity", "step", state.features), "takes")
    tile = [
        *state.load("end", of_rows("grad_y", state.features)),
        *begin_arguments(field),
        f"taken = tl.load({of_rows('steps_of_rows')}, mask=live, other=0).to(tl.int32)",
        # the latest output that no step has passed yet
        f"next = tl.load({of_rows('reached')}, mask=live, other=0).to(tl.int32) - 1",
        "most = tl.max(taken, 0)",
        "for step_back in range(0, most):",
        *indented(_step(field)),
        *indented(reverse_step(field, memory, load_state, _of_stage(state, stages))),
        "left = next >= 0",
        "while tl.max(left.to(tl.int32), 0) > 0:",
        *indented(
            [
                *state.load("given", _of_output(state), "left"),
                *state.each("end", "{end} + {given}", ["end", "given"]),
                "next -= left.to(tl.int32)",
                "left = next >= 0",
            ]
        ),
        *state.store(state.names("end"), of_rows("grad_y", state.features)),
        *end_arguments(field),
    ]
    pointers = [*_POINTERS, "nodes", "coefficients"]
    numbers = dict.fromkeys(("capacity", "n_times", "stages", "weighted_stages"), "tl.int32")
    return sweep_kernel("sweep_rows", field, memory, pointers, numbers, tile)


def _step(field: AdjointField) -> list[str]:
    """Lines that read a step of every row and what its outputs give."""
    state = field.state
    numbers = _place("recorded_times", "capacity", "step", 3)
    return [
        "step = most - 1 - step_back",
        "takes = step < taken",
        *[f"{x} = tl.load({numbers} + {i}, mask=takes, other=0.0)" for i, x in enumerate(("t", "dt", "t1"))],
        f"h = dt.to({state.dtype})",
        f"active = takes & ({_any(state, 'end')})",
        *state.zeros("start"),
        "outputs = tl.zeros([ROWS], tl.int32)",
        "inside = tl.zeros([ROWS], tl.int32)",
        *_due("next"),
        "passed = takes & tl.where(dt < 0.0, due < t, due > t)",
        "while tl.max(passed.to(tl.int32), 0) > 0:",
        *indented(
            [
                "across, middle, begins, ends = quartic_weights((due - t) / dt)",
                "at_end = due == t1",
                f"share = tl.where(passed, tl.where(at_end, 1.0, across), 0.0).to({state.dtype})",
                *state.load("given", _of_output(state), "passed"),
                *state.each("end", "{end} + {share} * {given}", ["end", "given"], ["share"]),
                *state.each("start", "{start} + (1.0 - {share}) * {given}", ["start", "given"], ["share"]),
                f"active = active | ({_any(state, 'given')})",
                "outputs += passed.to(tl.int32)",
                "inside += (passed & (at_end == 0)).to(tl.int32)",
                "next -= passed.to(tl.int32)",
                *_due("next"),
                "passed = passed & tl.where(dt < 0.0, due < t, due > t)",
            ]
        ),
        "most_outputs = tl.max(outputs, 0)",
        "stage_end = tl.where(tl.max(inside, 0) > 0, stages, weighted_stages)",
        "stage_end = tl.where(tl.max(active.to(tl.int32), 0) > 0, stage_end, 0)",
    ]


def _of_stage(state: State, stages: int) -> list[str]:
    """Lines that add what the outputs inside the step take from the slope of ``stage``."""
    given = _place("grad_out", "n_times", "latest", state.features)
    return [
        f"mid = tl.load(coefficients + {(stages + 2) * stages} + stage).to(tl.float64)",
        "first_slope = tl.where(stage == 0, 1, 0).to(tl.float64)",
        f"last_slope = tl.where(stage == {stages - 1}, 1, 0).to(tl.float64)",
        "for j in range(0, most_outputs):",
        *indented(
            [
                "latest = next + 1 + j",
                "given_here = j < outputs",
                *_due("latest", "given_here"),
                "across, middle, begins, ends = quartic_weights((due - t) / dt)",
                "share = middle * mid + first_slope * begins + last_slope * ends",
                f"share = tl.where(given_here & (due != t1), share, 0.0).to({state.dtype})",
                *state.load("given", given, "given_here"),
                *state.each("g", "{g} + {share} * {given}", ["g", "given"], ["share"]),
            ]
        ),
    ]


def _place(array: str, count: str, index: str, width: int) -> str:
    """Where entry ``index`` of each row is, of an array with ``count`` entries a row."""
    return f"({array} + first * {count} * {width} + (lane * {count} + {index}) * {width})"


def _of_output(state: State) -> str:
    return _place("grad_out", "n_times", "next", state.features)


def _due(index: str, where: str = "live") -> list[str]:
    """The line that reads the times of outputs; NaN before the first."""
    place = _place("times", "n_times", index, 1)
    return [f'due = tl.load({place}, mask={where} & ({index} >= 0), other=float("nan"))']


def _any(state: State, name: str) -> str:
    """Whether a vector of a row has an element that is not zero."""
    terms = []
    for n, part in enumerate(state.parts):
        moved = f"({name}_{n} != 0.0)"
        if part.padded:
            inside = f" & (columns_{part.padded} < {part.width})" if part.width < part.padded else ""
            moved = f"(tl.max(({moved}{inside}).to(tl.int32), 1) > 0)"
        terms.append(moved)
    return " | ".join(terms)


def sweep_rows(
    sweep: FusedSweep,
    tableau: ButcherTableau,
    record: RowRecord,
    n_steps: Tensor,
    times: Tensor,
    reached: Tensor,
    grad_out: Tensor,
    grad_y: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
) -> Swept:
    """Gradients of a solve of rows.

    Args:
        tableau: with an error estimate, whose last stage is at the new state.
        record: of :func:`.rows.solve_rows`, with all steps.
        n_steps: [R] int64; how many steps each row took (``RowState.n_accepted``).
        times: [R, T] float64; of the outputs.
        reached: [R] int64; how many of them each row reached.
        grad_out: [R, T, features]; cotangents of the outputs; what is not reached is not read.
        grad_y: [R, features]; of the states where the rows stopped, beside outputs there. It is overwritten.
        arguments: [R, width] each; contiguous, like all tensors here.
        constants: of the state's dtype.

    Raises:
        NotFused: the tableau is of another kind, or a tile's places are no numbers of 32 bits.
    """
    if not (tableau.adaptive and tableau.last_stage_is_solution):
        raise NotFused("a method without an error estimate, or whose last stage is not at the new state")
    capacity, n_times = record.times.shape[1], times.shape[1]
    check_places(sweep.settings, sweep.features, n_times, capacity)
    numbers = coefficients_of(tableau, sweep.dtype, grad_y.device)
    return sweep.launch(
        sweep.kernel(_kernel, tableau.stages),
        tableau.stages,
        (record.times, record.states, n_steps, times, reached, grad_out, numbers.nodes, numbers.lines),
        (capacity, n_times, tableau.stages, weighted_stages(tableau)),
        grad_y,
        arguments,
        constants,
    )
