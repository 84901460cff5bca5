"""The kernels of one program, made when a solve first needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...kernels.launching import Launch, front_door
from ..program import Program
from .configurations import settings_for
from .field import Field, field_of
from .kernels import Kernels
from .settings import Settings, type_name
from .slopes import InMemory, slopes_of


class FusedProgram(Kernels):
    """A program with one output, for states of one dtype.

    A kernel is compiled for a program, dtype, number of stages and settings, whatever the batch, the tolerances and
    times.

    Args:
        shared_time: all rows are at the same time (lockstep and grids), else each at its own.
        settings: None for those of :func:`.configurations.settings_for`.

    Raises:
        NotFused: tiles cannot hold a value, or do not do what the program needs.
    """

    def __init__(
        self, program: Program, dtype: torch.dtype, shared_time: bool, settings: Settings | None = None
    ) -> None:
        super().__init__(settings or settings_for(program, dtype))
        self.program, self.dtype, self.shared_time = program, dtype, shared_time
        self.features = program.ops[program.outputs[0]].width
        self.field: Field = field_of(program, self.settings, type_name(dtype), shared_time)

    def inputs(self, arguments: Sequence[Tensor], constants: Sequence[Tensor]) -> list[Tensor]:
        """What the last parameters of a kernel point at."""
        return [
            *(arguments[a] for a in self.field.arguments),
            *(constants[c] for c in self.field.emitted.constants),
        ]

    def grid(self, rows: int) -> tuple[int]:
        """How many tiles there are."""
        return (-(-rows // self.settings.rows),)

    def slopes(self, rows: int, stages: int, device: torch.device) -> list[Tensor]:
        """The memory of the slopes, if they are there."""
        slopes = slopes_of(self.field.state, stages, self.settings)
        if not isinstance(slopes, InMemory):
            return []
        shape = (*self.grid(rows), stages, slopes.width * self.settings.rows)
        return [torch.empty(shape, dtype=self.dtype, device=device)]

    def run(self, kernel: Any, rows: int, *args: Any, launch: Launch = front_door) -> None:
        """Launch a kernel for ``rows`` rows, on the device and the stream of its first argument."""
        with torch.cuda.device_of(args[0]):
            launch(kernel, self.grid(rows), *args, **self.launch_keywords)
