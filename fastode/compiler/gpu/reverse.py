"""The text of one step in reverse; the formulas are those of :mod:`fastode.gradients.stage_replay`.

With the cotangent ``end`` of the state after the step, and those of outputs inside it, the stages are computed again up
to the last that anything depends on, and the tableau is run backwards:

    g_i = h (b_i end + sum_{m > i} a_mi bar_m + sum over outputs),   bar_i = (df/dy)' g_i,   start = end + sum_i bar_i
"""

from __future__ import annotations

from collections.abc import Sequence

from .adjoint_field import AdjointField
from .attempt import stage_time
from .field import indented, of_rows
from .stage_memory import COTANGENTS, SLOPES, StageMemory
from .state import State


def reverse_step(
    field: AdjointField,
    memory: StageMemory,
    load_state: Sequence[str],
    outputs_of_stage: Sequence[str],
    float32_times: bool = False,
) -> list[str]:
    """Lines that make ``end`` the cotangent at the start of the step, and add what arguments and constants receive.

    They take the number ``step``, the times ``t``, ``dt`` and ``t1`` in float64, ``h``, the cotangents ``end`` and
    ``start`` that the later steps and the outputs have left there, ``stage_end``, one more than the last stage that
    matters, and ``active``, the rows that take the step. Times are numbers if rows share them, else vectors [ROWS].

    Args:
        load_state: lines that make ``y`` the state at the start.
        outputs_of_stage: lines that add to ``g`` what outputs take from the slope of ``stage``, but for the factor
            ``h``.
        float32_times: times round to float32, as those of a grid of that type.
    """
    state, seen, stages = field.state, field.seen, memory.stages
    per_row = [] if field.shared_time else ["h"]
    h = "{h}" if per_row else "h"
    # no stage has so high a number
    begin_stage = ["nothing = stage >> 30", "memory_of_stage = memory + nothing"]
    at_stage = [
        *seen.zeros("sum"),
        *memory.weighted_stages("sum", SLOPES, ("0", "stage"), f"coefficients + stage * {stages} + j"),
        *load_state,
        *seen.each("s", f"{{y}} + {h} * {{sum}}", ["y", "sum"], per_row),
        *stage_time(state.dtype, float32_times),
    ]
    forward = [
        *begin_stage,
        *field.pointers(field.forward),
        *at_stage,
        *field.forward.body,
        *memory.put_stage(SLOPES, field.slope),
    ]
    backward = [
        "stage = stage_end - 1 - back",
        *begin_stage,
        *field.pointers(field.backward),
        *field.gradients.begin_stage(),
        *at_stage,
        *memory.get_end("g"),
        f"weight = tl.load(coefficients + {stages * stages} + stage)",
        *state.each("g", "weighted(weight, {g})", ["g"]),
        *memory.weighted_stages("g", COTANGENTS, ("stage + 1", "stage_end"), f"coefficients + j * {stages} + stage"),
        *outputs_of_stage,
        *state.each("g", f"tl.where({{active}}, {h} * {{g}}, 0.0)", ["g"], ["active", *per_row]),
        *field.gradients.among(field.backward.body),
        *_add_arguments(field),
        *memory.put_stage(COTANGENTS, _where_active(seen, field.pulled)),
    ]
    return [
        "memory_of_step = memory + (step >> 30) * 16",
        *memory.begin_step(state.names("end"), [f"start_{n} + end_{n}" for n in range(len(state.parts))]),
        "for stage in tl.range(0, stage_end - 1, disable_licm=True):",
        *indented(forward),
        "for back in tl.range(0, stage_end, disable_licm=True):",
        *indented(backward),
        *memory.end_step("end", "stage_end"),
    ]


def begin_arguments(field: AdjointField) -> list[str]:
    """Lines before the first step of a tile."""
    return [line for a, c in field.argument_cotangents.items() for line in c.vector.zeros(f"of_argument_{a}")]


def end_arguments(field: AdjointField) -> list[str]:
    """Lines after the last step of a tile."""
    return [
        line
        for a, c in field.argument_cotangents.items()
        for line in c.vector.store(c.vector.names(f"of_argument_{a}"), of_rows(f"grad_argument_{a}", c.vector.features))
    ]


def _add_arguments(field: AdjointField) -> list[str]:
    return [
        f"of_argument_{a}_{n} += {value}"
        for a, c in field.argument_cotangents.items()
        for n, value in enumerate(_where_active(c.vector, c.values))
    ]


def _where_active(vector: State, values: Sequence[str]) -> list[str]:
    """Zeros in the rows that do not take the step, where the field need not be finite."""
    return [
        f"tl.where(active{'[:, None]' if part.padded else ''}, {value}, 0.0)"
        for part, value in zip(vector.parts, values, strict=True)
    ]
