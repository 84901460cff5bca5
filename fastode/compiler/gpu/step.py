"""One attempt of an adaptive step that all rows take together; its caller has the controller.

y1 = y + dt sum_j b_j k_j,   y_mid = y + dt sum_j b_mid_j k_j, sums[part, tile] = sum over the rows of the tile and the
features of the part of (error / (atol + rtol max(|y|, |y1|)))^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.launching import Launch, front_door
from ...tableau import ButcherTableau
from . import source
from .attempt import scaled_error, stage_loop
from .coefficients import coefficients_of
from .field import Field, body_text, of_rows, whole_numbers
from .fused import FusedProgram
from .refusal import NotFused
from .settings import Settings
from .slopes import MIDPOINT, slopes_of


def _kernel(field: Field, settings: Settings, stages: int, ends: tuple[int, ...]) -> Any:
    state = field.state
    width = state.features
    slopes = slopes_of(state, stages, settings)
    lines = [
        *field.begin(),
        *state.load("y", of_rows("y", width)),
        *state.load("start", of_rows("first_slope", width)),
        *slopes.set_first(state.names("start")),
        *[f"{x} = tl.load({x}_of_step)" for x in ("t", "dt", "t1")],
        f"h = dt.to({state.dtype})",
        *stage_loop(field, slopes, 1, "h"),
        *scaled_error(field, slopes, "h"),
        *slopes.sum(MIDPOINT),
        *state.each("middle", "{y} + h * {sum}", ["y", "sum"]),
        *slopes.get(stages - 1, "final"),
        *state.store(state.names("s"), of_rows("y1", width)),
        *state.store(state.names("final"), of_rows("last_slope", width)),
        *state.store(state.names("middle"), of_rows("y_mid", width)),
        "sums_of_tile = sums + tl.program_id(0)",
    ]
    for n, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
        squares = f"tl.where(live, {state.sum_of_squares('error', start, end)}, 0.0)"
        lines.append(f"tl.store(sums_of_tile + {n} * tl.num_programs(0), tl.sum({squares}.to(tl.float64), 0))")
    pointers = ["y", "first_slope", "y1", "last_slope", "y_mid", "sums", "rtol", "atol", "nodes", "coefficients"]
    pointers += [*(f"{x}_of_step" for x in ("t", "dt", "t1")), *slopes.parameters]
    numbers = ["count", "row_stride", "feature_stride", "stages"]
    parameters = [*pointers, *whole_numbers(numbers), *field.parameters, "ROWS: tl.constexpr"]
    return source.kernel("attempt_step", parameters, body_text(lines), numbers, pointers)


@dataclass(frozen=True)
class Attempt:
    """A step that was tried.

    Attributes:
        y1, last_slope, y_mid: [R, features]; the state and slope at its end, and the state half way, of dense output.
        sums: [parts * tiles] float64; of the squared error in units of the tolerance, part by part.
    """

    y1: Tensor
    last_slope: Tensor
    y_mid: Tensor
    sums: Tensor


def attempt_step(
    program: FusedProgram,
    tableau: ButcherTableau,
    times: tuple[Tensor, Tensor, Tensor],
    y: Tensor,
    first_slope: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    tolerances: tuple[Tensor, Tensor],
    parts: Sequence[int],
    into: Attempt | None = None,
    launch: Launch = front_door,
) -> Attempt:
    """One attempt.

    Args:
        tableau: with an error estimate, whose last stage is at the new state.
        times: start, signed size and end of the step; float64, 0-dim.
        y, first_slope: [R, features] contiguous; where the rows are, and their slopes there.
        arguments, constants: see :func:`.evaluate.evaluate`.
        tolerances: relative and absolute, of the state's dtype; [1] each, or [R, features] contiguous.
        parts: where each part of the state ends, in features.
        into: what is overwritten; None for new tensors.
        launch: the way through Triton.

    Raises:
        NotFused: the tableau is of another kind.
    """
    if not (tableau.adaptive and tableau.last_stage_is_solution):
        raise NotFused("a method without an error estimate, or whose last stage is not at the new state")
    rows, stages = len(y), tableau.stages
    (tiles,) = program.grid(rows)
    if into is None:
        sums = torch.empty(len(parts) * tiles, dtype=torch.float64, device=y.device)
        into = Attempt(torch.empty_like(y), torch.empty_like(y), torch.empty_like(y), sums)
    if not rows:
        return into
    numbers = coefficients_of(tableau, program.dtype, y.device)
    strides = (program.features, 1) if tolerances[0].numel() > 1 else (0, 0)
    program.run(
        program.kernel(_kernel, stages, tuple(parts)),
        rows,
        *(y, first_slope, into.y1, into.last_slope, into.y_mid, into.sums, *tolerances),
        *(numbers.nodes, numbers.lines, *times, *program.slopes(rows, stages, y.device)),
        *(rows, *strides, stages),
        *program.inputs(arguments, constants),
        launch=launch,
    )
    return into
