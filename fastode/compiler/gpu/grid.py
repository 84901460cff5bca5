"""Solves on a given grid of times, the same for all rows, each tile of rows in one kernel.

Outputs between two points of the grid are interpolated linearly, as torchdiffeq does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...kernels.upload import upload
from ...tableau import ButcherTableau
from ..steps import GridSteps
from . import source
from .attempt import stage_loop
from .coefficients import coefficients_of
from .field import Field, body_text, indented, of_rows, whole_numbers
from .fused import FusedProgram
from .settings import Settings
from .slopes import WEIGHTS, slopes_of
from .state import State


def _kernel(field: Field, settings: Settings, stages: int, float32_times: bool, record: bool) -> Any:
    state = field.state
    slopes = slopes_of(state, stages, settings)
    step = [
        "t = tl.load(points + step)",
        "t1 = tl.load(points + step + 1)",
        "dt = (t1 - t).to(tl.float32).to(tl.float64)" if float32_times else "dt = t1 - t",
        f"h = dt.to({state.dtype})",
        *(state.store(state.names("y"), _place("recorded_states", "step", state)) if record else []),
        *stage_loop(field, slopes, 0, "h", float32_times),
        *slopes.sum(WEIGHTS),
        *state.each("change", "h * {sum}", ["sum"]),
        *_outputs(state, "step", "{y} + x * {change}", ["y", "change"]),
        *state.each("y", "{y} + {change}", ["y", "change"]),
    ]
    lines = [
        *field.begin(),
        *state.load("y", of_rows("y", state.features)),
        "next = 0",
        "due = tl.load(output_step)",
        *_outputs(state, "-1", "{y}", ["y"]),
        "for step in range(0, n_steps):",
        *indented(step),
        *state.store(state.names("y"), of_rows("last", state.features)),
    ]
    pointers = ["y", "nodes", "coefficients", "points", "output_step", "output_x", "out", "last"]
    pointers += [*slopes.parameters, *(["recorded_states"] if record else [])]
    numbers = ["count", "stages", "n_steps", "n_outputs"]
    parameters = [*pointers, *whole_numbers(numbers), *field.parameters, "ROWS: tl.constexpr"]
    return source.kernel("solve_grid", parameters, body_text(lines), numbers, pointers)


def _place(array: str, index: str, state: State) -> str:
    return of_rows(f"{array} + {index} * count * {state.features}", state.features)


def _outputs(state: State, step: str, value: str, vectors: Sequence[str]) -> list[str]:
    """Lines that write the outputs inside a step."""
    return [
        f"while due == {step}:",
        *indented(
            [
                f"x = tl.load(output_x + next).to({state.dtype})",
                *state.each("between", value, vectors),
                *state.store(state.names("between"), _place("out", "next", state)),
                "next += 1",
                # beyond the last output there is no step of this number
                "due = tl.load(output_step + next, mask=next < n_outputs, other=-2)",
            ]
        ),
    ]


def solve_grid(
    program: FusedProgram,
    tableau: ButcherTableau,
    y: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    steps: GridSteps,
    out: Tensor,
    float32_times: bool = False,
    record: Tensor | None = None,
) -> Tensor:
    """The states at the end of the grid [R, features]; ``out`` has those at the outputs.

    Args:
        y: [R, features] contiguous; the states at the first point.
        arguments, constants: see :func:`.evaluate.evaluate`.
        steps: the grid, and where in it each output is.
        out: [T, R, features].
        float32_times: times round to float32.
        record: [steps, R, features]; becomes the states at the starts of all steps.
    """
    rows, n_steps = len(y), len(steps.points) - 1
    last = torch.empty_like(y)
    if not rows:
        return last
    numbers = coefficients_of(tableau, program.dtype, y.device)
    points = upload(torch.tensor(steps.points, dtype=torch.float64), y.device)
    output_step = upload(torch.tensor(steps.output_step, dtype=torch.int64), y.device)
    output_x = upload(torch.tensor(steps.output_x, dtype=torch.float64), y.device)
    program.run(
        program.kernel(_kernel, tableau.stages, float32_times, record is not None),
        rows,
        *(y, numbers.nodes, numbers.lines, points, output_step, output_x, out, last),
        *program.slopes(rows, tableau.stages, y.device),
        *(() if record is None else (record,)),
        *(rows, tableau.stages, n_steps, len(steps.output_step)),
        *program.inputs(arguments, constants),
    )
    return last
