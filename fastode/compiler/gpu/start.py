"""Where a solve of rows begins: every row's first slope and, where it is not given, its first step.

Reference: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4, p. 169; the trial step does not
leave the row's span.
"""

from __future__ import annotations

from typing import Any

from . import source
from .field import Field, body_text, indented, of_rows, whole_numbers
from .settings import Settings


def kernel(field: Field, settings: Settings) -> Any:
    """The kernel; it takes ``evaluations`` of 1, or of 2 to choose the steps that are NaN."""
    state = field.state
    features = state.features
    stage = [
        *state.each("s", "{y} + {h} * {k}", ["y", "k"], ["h"]),
        f"time = (t_now + signed).to({state.dtype})",
        *field.emitted.body,
        *[f"f_{n} = {slope}" for n, slope in enumerate(field.slope)],
        *state.each("change", "({f} - {k}) / {scale}", ["f", "k", "scale"]),
        f"change_norm = tl.sqrt(({state.sum_of_squares('change')}).to(tl.float64) / {features})",
        *state.each("k", "tl.where(stage == 0, {f}, {k})", ["f", "k"]),
        *state.each("change", "{k} / {scale}", ["k", "scale"]),
        f"slope_norm = tl.sqrt(({state.sum_of_squares('change')}).to(tl.float64) / {features})",
        "step = starting_step(norm, slope_norm, span)",
        "signed = tl.where(t_last < t_now, -step, step)",
        f"h = signed.to({state.dtype})",
    ]
    lines = [
        *field.begin(),
        *state.load("y", of_rows("y", features)),
        *state.tolerances(),
        *state.each("scale", "{atol} + {rtol} * tl.abs({y})", ["y", "rtol", "atol"]),
        *state.each("change", "{y} / {scale}", ["y", "scale"]),
        f"norm = tl.sqrt(({state.sum_of_squares('change')}).to(tl.float64) / {features})",
        f"t_now = tl.load({of_rows('t')}, mask=live, other=0.0)",
        f"t_last = tl.load({of_rows('t_end')}, mask=live, other=0.0)",
        "span = tl.abs(t_last - t_now)",
        *state.zeros("k"),
        f"h = tl.zeros([ROWS], {state.dtype})",
        *[f"{x} = tl.zeros([ROWS], tl.float64)" for x in ("signed", "step", "slope_norm", "change_norm")],
        "for stage in range(0, evaluations):",
        *indented(stage),
        *state.store(state.names("k"), of_rows("slope", features)),
        "if evaluations > 1:",
        *indented(
            [
                f"given = tl.load({of_rows('size')}, mask=live, other=1.0)",
                "chosen = choose_first(step, slope_norm, change_norm, span, rule)",
                # several threads read what one of them writes
                "tl.debug_barrier()",
                f"tl.store({of_rows('size')}, chosen, mask=live & (given != given))",
            ]
        ),
    ]
    pointers = ["y", "slope", "t", "t_end", "size", "rtol", "atol", "rule"]
    numbers = ["count", "row_stride", "feature_stride", "evaluations"]
    parameters = [*pointers, *whole_numbers(numbers), *field.parameters, "ROWS: tl.constexpr"]
    return source.kernel("start", parameters, body_text(lines), numbers, pointers)
