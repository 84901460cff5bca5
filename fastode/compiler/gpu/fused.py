"""The kernels of one program, made when a solve first needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..program import Program
from .configurations import settings_for
from .field import Field, field_of
from .settings import Settings, type_name
from .slopes import InMemory, slopes_of


class FusedProgram:
    """A program with one output, for states of one dtype.

    A kernel is compiled for a program, dtype, number of stages and settings, whatever the batch, the tolerances and
    times.

    Args:
        shared_time: all rows are at the same time (lockstep and grids), else each at its own.
        settings: None for those of :func:`.configurations.settings_for`.

    Attributes:
        is_amd: whether the device is one of AMD's.

    Raises:
        NotFused: tiles cannot hold a value, or do not do what the program needs.
    """

    is_amd = torch.version.hip is not None

    def __init__(
        self, program: Program, dtype: torch.dtype, shared_time: bool, settings: Settings | None = None
    ) -> None:
        self.program, self.dtype, self.shared_time = program, dtype, shared_time
        self.settings = settings or settings_for(program, dtype)
        self.features = program.ops[program.outputs[0]].width
        self._kernels: dict[tuple[Any, ...], Any] = {}
        self.field  # noqa: B018  # refused here rather than in the first solve

    @cached_property
    def field(self) -> Field:
        """Its source."""
        return field_of(self.program, self.settings, type_name(self.dtype), self.shared_time)

    def kernel(self, make: Callable[..., Any], *key: Any) -> Any:
        """The kernel ``make(field, settings, *key)``, made once."""
        name = (make, *key)
        known = self._kernels.get(name)
        if known is None:
            known = self._kernels[name] = make(self.field, self.settings, *key)
        return known

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

    def run(self, kernel: Any, rows: int, *args: Any) -> None:
        """Launch a kernel for ``rows`` rows, on the device and the stream of its first argument."""
        with torch.cuda.device_of(args[0]):
            kernel[self.grid(rows)](*args, **self.launch)

    @property
    def launch(self) -> dict[str, int]:
        """Keywords of every launch."""
        return launch_keywords(self.settings, self.is_amd)


def launch_keywords(settings: Settings, is_amd: bool) -> dict[str, int]:
    """Keywords of a launch for tiles of rows."""
    keywords = {"ROWS": settings.rows, "num_stages": 1}
    if is_amd:
        # of 64 threads; more than four of them have fewer registers each
        return {**keywords, "num_warps": min(4, settings.warps)}
    # left to itself, ptxas spills registers rather than have fewer blocks at a time
    return {**keywords, "num_warps": settings.warps, "maxnreg": 255}
