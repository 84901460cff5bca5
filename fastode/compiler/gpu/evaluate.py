"""The slopes of all rows: one evaluation of the field.

out[r, n] = f(t, y[r])[n]      with the time t[r] of the row where rows have times of their own
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import source
from .field import Field, body_text, of_rows, whole_numbers
from .fused import FusedProgram
from .settings import Settings


def _kernel(field: Field, settings: Settings) -> Any:
    state = field.state
    time = "tl.load(t)" if field.shared_time else f"tl.load({of_rows('t')}, mask=live, other=0.0)"
    lines = [
        *field.begin(),
        *state.seen(field.program.state_width).load("s", of_rows("y", state.features)),
        f"time = {time}.to({state.dtype})",
        *field.emitted.body,
        *state.store(field.slope, of_rows("out", state.features)),
    ]
    parameters = ["y", "t", "out", *whole_numbers(["count"]), *field.parameters, "ROWS: tl.constexpr"]
    return source.kernel("evaluate", parameters, body_text(lines), ["count"], ["y", "t", "out"])


def evaluate(
    program: FusedProgram, t: Tensor, y: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor]
) -> Tensor:
    """The slopes [R, features].

    Args:
        t: float64; 0-dim, or [R] if rows have times of their own.
        y: [R, features] contiguous; the field sees the first ``program.state_width`` features.
        arguments: [R, width] each, contiguous.
        constants: contiguous, of the state's dtype.
    """
    out = torch.empty_like(y)
    if len(y):
        program.run(program.kernel(_kernel), len(y), y, t, out, len(y), *program.inputs(arguments, constants))
    return out
