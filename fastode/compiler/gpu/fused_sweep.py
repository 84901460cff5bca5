"""The kernels of one program's sweeps, made when a sweep first needs them, and what is around their launches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...tableau import ButcherTableau
from ..program import Program
from . import source
from .adjoint_field import AdjointField, adjoint_field_of
from .configurations import sweep_settings_for
from .field import body_text, indented
from .kernels import Kernels
from .settings import Settings, type_name
from .stage_memory import StageMemory

#: programs of a sweep; each adds all its tiles to a slice of its own
MOST_PROGRAMS = 528
#: bytes of all slices
_MOST_MEMORY = 2**28
#: elements of a gradient that one program of the reduction sums
_BLOCK = 64


@dataclass(frozen=True)
class Swept:
    """What a sweep finds.

    Attributes:
        y: [R, features]; of the state at the start.
        arguments: [R, width] each; of those asked for, by their number.
        constants: of those asked for, by their number, of their shapes.
    """

    y: Tensor
    arguments: dict[int, Tensor]
    constants: dict[int, Tensor]

    def of_inputs(self, n_arguments: int, count: int) -> list[Tensor | None]:
        """Of the arguments, then the constants, ``count`` in all; None for those not asked for."""
        found = {**self.arguments, **{n_arguments + c: g for c, g in self.constants.items()}}
        return [found.get(i) for i in range(count)]


class FusedSweep(Kernels):
    """The sweeps of a program with one output, for states of one dtype.

    The gradients do not depend on the machine: so many programs take the tiles in turn, and their sums are added in
    order.

    Args:
        constants, arguments: those whose gradients are wanted.
        shared_time: all rows are at the same time (lockstep and grids), else each at its own.
        settings: None for those of :func:`.configurations.sweep_settings_for`.

    Raises:
        NotFused: tiles cannot hold a value, or do not do what the program or its adjoint needs.
    """

    def __init__(
        self,
        program: Program,
        dtype: torch.dtype,
        shared_time: bool,
        constants: Iterable[int],
        arguments: Iterable[int] = (),
        settings: Settings | None = None,
    ) -> None:
        super().__init__(settings or sweep_settings_for(program, dtype))
        self.program, self.dtype, self.shared_time = program, dtype, shared_time
        self.constants, self.arguments = tuple(sorted(constants)), tuple(sorted(arguments))
        self.features = program.ops[program.outputs[0]].width
        self.field: AdjointField = adjoint_field_of(
            program, self.constants, self.arguments, self.settings, type_name(dtype), shared_time
        )

    def programs(self, rows: int) -> int:
        """How many programs share the tiles."""
        slices = max(1, _MOST_MEMORY // max(1, self.field.gradients.count * self.dtype.itemsize))
        return min(-(-rows // self.settings.rows), MOST_PROGRAMS, slices)

    def launch(
        self,
        run: Any,
        stages: int,
        tensors: Sequence[Tensor],
        numbers: Sequence[int],
        y: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
    ) -> Swept:
        """Runs a kernel of :func:`sweep_kernel`, and the reduction.

        Args:
            tensors, numbers: the kernel's own.
            y: [R, features]; the cotangent of the state at the end, which becomes that at the start.
        """
        rows, gradients = len(y), self.field.gradients
        programs = self.programs(rows)
        width = StageMemory(self.field.state, self.field.seen, stages).width
        scratch = torch.empty(programs * width * self.settings.rows, dtype=y.dtype, device=y.device)
        slices = torch.zeros((programs, gradients.count), dtype=y.dtype, device=y.device)
        found = {a: torch.empty_like(arguments[a], memory_format=torch.contiguous_format) for a in self.arguments}
        if rows:
            run[(programs,)](
                *(*tensors, y, scratch, slices, *found.values(), rows, *numbers),
                *(arguments[a] for a in self.field.arguments),
                *(constants[c] for c in self.field.constants),
                **self.launch_keywords,
            )
        return Swept(y, found, self._constants(add_slices(self, slices), constants))

    def _constants(self, total: Tensor, constants: Sequence[Tensor]) -> dict[int, Tensor]:
        gradients = self.field.gradients
        found = {}
        for c in self.constants:
            size = gradients.sizes.get(c)
            shape = constants[c].shape
            first = gradients.first(c)
            found[c] = total.new_zeros(shape) if size is None else total[first : first + size].view(shape)
        return found


def weighted_stages(tableau: ButcherTableau) -> int:
    """One more than the last stage that the new state is made of; later ones are for the error and dense output."""
    return 1 + max(i for i, b in enumerate(tableau.weights) if b != 0)


def sweep_kernel(
    name: str,
    field: AdjointField,
    memory: StageMemory,
    pointers: Sequence[str],
    numbers: Mapping[str, str],
    tile: Sequence[str],
) -> Any:
    """A kernel in which every program takes tiles in turn.

    Args:
        pointers: its own.
        numbers: its own, with their types.
        tile: lines that take a tile of rows from ``first`` on, of which ``live`` are in the batch, from its end to its
            start.
    """
    gradients = field.gradients
    lines = [
        "lane = tl.arange(0, ROWS)",
        *memory.begin(),
        *gradients.begin(),
        *field.before,
        "tiles = tl.cdiv(count, ROWS).to(tl.int32)",
        "for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):",
        *indented(
            [
                "first = (tl.full([], 0, tl.int64) + tile) * ROWS",
                "live = lane < tl.minimum(count - first, ROWS).to(tl.int32)",
                *field.load_arguments(),
                *tile,
            ]
        ),
        *gradients.end(),
    ]
    own = [*pointers, "grad_y", "scratch", "gradients", *(f"grad_argument_{a}" for a in field.argument_cotangents)]
    # memory of the sweep's own begins at a multiple of 16 bytes
    unaligned = [p for p in own if p not in ("scratch", "gradients")]
    whole = {"count": "tl.int64", **numbers}
    parameters = [*own, *(f"{n}: {t}" for n, t in whole.items()), *field.parameters, "ROWS: tl.constexpr"]
    return source.kernel(name, parameters, body_text(lines), [*whole], unaligned)


def add_slices(sweep: FusedSweep, slices: Tensor) -> Tensor:
    """The sums over the programs, [elements], in an order that depends on the numbers of both alone."""
    programs, count = slices.shape
    total = torch.empty(count, dtype=slices.dtype, device=slices.device)
    if count:
        run = sweep.kernel(_reduction)
        run[(-(-count // _BLOCK),)](slices, total, programs, count, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=True)
    return total


def _reduction(field: AdjointField, settings: Settings) -> Any:
    dtype = field.state.dtype
    lines = [
        "element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
        f"total = tl.zeros([16, BLOCK], {dtype})",
        "for start in range(0, programs, 16):",
        "    row = start + tl.arange(0, 16)",
        "    inside = (row < programs)[:, None] & (element < count)[None, :]",
        "    place = row[:, None].to(tl.int64) * count + element[None, :]",
        "    total += tl.load(slices + place, mask=inside, other=0.0)",
        "tl.store(out + element, tl.sum(total, 0), mask=element < count)",
    ]
    parameters = ["slices", "out", "programs: tl.int32", "count: tl.int32", "BLOCK: tl.constexpr"]
    return source.kernel("add_slices", parameters, body_text(lines), ["programs", "count"], ["slices", "out"])
