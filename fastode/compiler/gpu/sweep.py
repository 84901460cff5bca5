"""The discrete adjoint of solves whose rows share their steps, each tile of rows from the last step to the first.

Step sizes are constants. Outputs inside a step are on its quartic (:func:`sweep_steps`) or, for grids, on the line
through its ends (:func:`sweep_grid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.upload import upload
from ...tableau import ButcherTableau
from ..steps import GridSteps
from .adjoint_field import AdjointField
from .coefficients import coefficients_of
from .field import indented, of_rows
from .fused_sweep import FusedSweep, Swept, sweep_kernel, weighted_stages
from .refusal import NotFused
from .reverse import begin_arguments, end_arguments, reverse_step
from .settings import Settings
from .stage_memory import StageMemory

#: of a step: start, signed size, end, its first output, and the one after its last
_NUMBERS = 5


def _kernel(field: AdjointField, settings: Settings, stages: int, quartic: bool, float32_times: bool) -> Any:
    state, memory = field.state, StageMemory(field.state, field.seen, stages)
    grad_out = _place("grad_out", "output", state.features)
    load_state = field.seen.load("y", _place("states", "step", state.features))
    step = [
        "step = n_steps - 1 - step_back",
        *[f"{x} = tl.load(steps + step * {_NUMBERS} + {i})" for i, x in enumerate(("t", "dt", "t1"))],
        *[f"{x}_output = tl.load(steps + step * {_NUMBERS} + {i}).to(tl.int32)" for i, x in ((3, "first"), (4, "end"))],
        f"h = dt.to({state.dtype})",
        *state.zeros("start"),
        "inside = tl.full([], 0, tl.int32)",
        "for output in range(first_output, end_output):",
        *indented(
            [
                *(_quartic() if quartic else ["share = tl.load(outputs + output)"]),
                f"share = share.to({state.dtype})",
                *state.load("given", grad_out),
                *state.each("end", "{end} + share * {given}", ["end", "given"]),
                *state.each("start", "{start} + (1.0 - share) * {given}", ["start", "given"]),
            ]
        ),
        "stage_end = tl.where(inside > 0, stages, weighted_stages)",
        *reverse_step(field, memory, load_state, _of_stage(field, stages) if quartic else [], float32_times),
    ]
    tile = [
        "active = live",
        *state.load("end", of_rows("grad_y", state.features)),
        *begin_arguments(field),
        "for step_back in range(0, n_steps):",
        *indented(step),
        "for output in range(0, outputs_at_start):",
        *indented(
            [*state.load("given", grad_out), *state.each("end", "{end} + {given}", ["end", "given"])],
        ),
        *state.store(state.names("end"), of_rows("grad_y", state.features)),
        *end_arguments(field),
    ]
    pointers = ["states", "steps", "outputs", "grad_out", "nodes", "coefficients"]
    numbers = dict.fromkeys(("n_steps", "outputs_at_start", "stages", "weighted_stages"), "tl.int32")
    return sweep_kernel("sweep_steps" if quartic else "sweep_grid", field, memory, pointers, numbers, tile)


def _quartic() -> list[str]:
    """Lines that find what ``output`` takes from the new state; an output at the end is it."""
    return [
        "due = tl.load(outputs + output)",
        "across, middle, begins, ends = quartic_weights((due - t) / dt)",
        "at_end = due == t1",
        "share = tl.where(at_end, 1.0, across)",
        "inside = tl.where(at_end, inside, 1)",
    ]


def _of_stage(field: AdjointField, stages: int) -> list[str]:
    """Lines that add what the outputs inside the step take from the slope of ``stage``."""
    state = field.state
    return [
        f"mid = tl.load(coefficients + {(stages + 2) * stages} + stage).to(tl.float64)",
        "for output in range(first_output, end_output):",
        *indented(
            [
                "due = tl.load(outputs + output)",
                "across, middle, begins, ends = quartic_weights((due - t) / dt)",
                "share = middle * mid + tl.where(stage == 0, begins, 0.0)",
                f"share += tl.where(stage == {stages - 1}, ends, 0.0)",
                f"share = tl.where(due == t1, 0.0, share).to({state.dtype})",
                *state.load("given", _place("grad_out", "output", state.features)),
                *state.each("g", "{g} + share * {given}", ["g", "given"]),
            ]
        ),
    ]


def _place(array: str, index: str, features: int) -> str:
    return of_rows(f"{array} + {index} * count * {features}", features)


def sweep_steps(
    sweep: FusedSweep,
    tableau: ButcherTableau,
    steps: Tensor,
    states: Tensor,
    times: Tensor,
    outputs_at_start: int,
    grad_out: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    grad_end: Tensor | None = None,
) -> Swept:
    """Gradients of a solve in lockstep.

    Args:
        tableau: with an error estimate, whose last stage is at the new state.
        steps: [S, 5] float64; of each accepted step the start, signed size and end, its first output and the one after
            its last. An output belongs to the step that it is inside, or at the end, of.
        states: [S, R, features]; at the starts of the steps. Of a density, what it adds to the state is not read.
        times: [T] float64; of the outputs.
        outputs_at_start: how many outputs are the initial state; they are the first.
        grad_out: [T, R, features]; cotangents of the outputs.
        arguments: [R, width] each; contiguous, like all tensors here.
        constants: of the state's dtype.
        grad_end: [R, features]; cotangent of the state after the last step, beside those of the outputs.

    Raises:
        NotFused: the tableau is of another kind.
    """
    if not (tableau.adaptive and tableau.last_stage_is_solution):
        raise NotFused("a method without an error estimate, or whose last stage is not at the new state")
    run = sweep.kernel(_kernel, tableau.stages, True, False)
    given = (steps, states, times, outputs_at_start, grad_out)
    return _sweep(sweep, run, tableau, given, arguments, constants, grad_end)


def sweep_grid(
    sweep: FusedSweep,
    tableau: ButcherTableau,
    steps: GridSteps,
    states: Tensor,
    grad_out: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    float32_times: bool = False,
) -> Swept:
    """Gradients of a solve on a grid.

    Args:
        states: [steps, R, features]; the record of :func:`.grid.solve_grid`.
        grad_out: [T, R, features]; cotangents of the outputs.
        arguments, constants: see :func:`sweep_steps`.
        float32_times: times round to float32.
    """
    points, at = steps.points, steps.output_step
    numbers, output = [], at.count(-1)
    outputs_at_start = output
    for n, (t, t1) in enumerate(pairwise(points)):
        first = output
        while output < len(at) and at[output] == n:
            output += 1
        numbers.append([t, float(np.float32(t1 - t)) if float32_times else t1 - t, t1, first, output])
    device = states.device
    record = upload(torch.tensor(numbers, dtype=torch.float64), device).reshape(-1, _NUMBERS)
    shares = upload(torch.tensor(steps.output_x, dtype=torch.float64), device)
    run = sweep.kernel(_kernel, tableau.stages, False, float32_times)
    given = (record, states, shares, outputs_at_start, grad_out)
    return _sweep(sweep, run, tableau, given, arguments, constants, None)


def _sweep(
    sweep: FusedSweep,
    run: Any,
    tableau: ButcherTableau,
    given: tuple[Tensor, Tensor, Tensor, int, Tensor],
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    grad_end: Tensor | None,
) -> Swept:
    steps, states, outputs, outputs_at_start, grad_out = given
    numbers = coefficients_of(tableau, sweep.dtype, states.device)
    y = torch.zeros_like(grad_out[0]) if grad_end is None else grad_end.clone()
    return sweep.launch(
        run,
        tableau.stages,
        (states, steps, outputs, grad_out, numbers.nodes, numbers.lines),
        (len(steps), outputs_at_start, tableau.stages, weighted_stages(tableau)),
        y,
        arguments,
        constants,
    )
