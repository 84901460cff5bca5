"""Solves of compiled fields in which every row has its own steps, on the device: what
:class:`fastode.compiler.rows.NativeRows` is on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...device.progress import on_device_of
from ...problem import Problem
from ...rows.clock import RowsClock
from ...rows.outputs import RowOutputs
from ..dispatch import fused_program
from ..refusal import NotServed
from ..rows import NativeRows
from .rows import RowRecord, solve_rows
from .sweep_rows import sweep_rows

#: steps of a row for which a record has room at first; and bytes of its states, of which it then takes less
_STEPS, _BYTES = 64, 2**28


class FusedRows(NativeRows):
    """A compiled field with a method and a controller, ready to solve rows.

    Raises:
        NotServed: the step loop has to do it.
    """

    def prepare(self, y0: Tensor, stops: bool, dense_output: bool) -> None:
        if dense_output:
            raise NotServed("dense output on a GPU")
        if len(self.parts) > 1:
            raise NotServed("a state of several parts, on a GPU")
        if stops:
            raise NotServed("times on which steps must end, on a GPU")
        if self.field.memory is not None:
            raise NotServed("a memory budget, which only the CPU's engine keeps")
        if not self.tableau.last_stage_is_solution:
            raise NotServed("on a GPU, a method without an error estimate or whose last stage is not at the new state")
        arguments, constants = self.inputs
        self.program = fused_program(
            self.native.lowered, y0, (*arguments, *constants), len(arguments), self.field.precision
        )

    def integrate(self, problem: Problem, clock: RowsClock, outputs: RowOutputs, keep: bool) -> Any:
        """All steps of all rows, into ``clock`` and ``outputs``; if they are kept, the record of the accepted ones and
        how many outputs each row reached before its end."""
        outputs.start(clock.t, clock.y)
        y0 = _features(problem.y0[0].detach())
        everyone = torch.arange(len(y0), device=y0.device)
        with on_device_of(y0):
            begin = clock.all.take(everyone), outputs.next.clone()
            record = self._record(y0) if keep else None
            self._solve(problem, clock, outputs, record)
            if record is not None and (missing := record.missing(clock.all)):
                # the same steps again, with room for all of them
                record = RowRecord.for_steps(y0, record.times.shape[1] + missing)
                clock.all.put(everyone, begin[0])
                outputs.next.copy_(begin[1])
                clock.y[0].copy_(problem.y0[0])
                self._solve(problem, clock, outputs, record)
        self._account(problem, clock)
        return None if record is None else (record, outputs.next.clone())

    def _record(self, y0: Tensor) -> RowRecord:
        of_one = max(1, y0.nbytes)
        return RowRecord.for_steps(y0, max(1, min(_STEPS, _BYTES // of_one)))

    def _solve(self, problem: Problem, clock: RowsClock, outputs: RowOutputs, record: RowRecord | None) -> None:
        y, times = _features(clock.y[0]), outputs.due[:, :-1].contiguous()
        solve_rows(
            self.program, self.tableau, y, *self.inputs, clock.all, _tolerances(problem, y), self.controller,
            self.max_steps, times, outputs.next, _features(outputs.ys[0], 2), record,
        )  # fmt: skip

    def sweep(
        self,
        outputs: RowOutputs,
        y: Tensor,
        grads: tuple[Tensor, Tensor],
        grad_quartics: Sequence[Tensor],
        inputs: Sequence[Tensor],
        wanted: Any,
    ) -> list[Tensor | None]:
        """Gradients of the per-row arguments and the constants; that of ``y0`` takes the place of the last states'."""
        n = sum(self.native.per_row)
        sweep = self.native.lowered.fused_sweep(y.dtype, self.field.precision, y.device, wanted, n)
        (record, reached), times = outputs.record, outputs.due[:, :-1].contiguous()
        grad_ys, grad_y = grads
        with torch.no_grad(), on_device_of(y):
            found = sweep_rows(
                sweep, self.tableau, record, outputs.clock.all.n_accepted, times, reached,
                _features(grad_ys, 2), _features(grad_y), inputs[:n], inputs[n:],
            )  # fmt: skip
        grad_y.copy_(found.y.view_as(grad_y))
        return found.of_inputs(n, len(wanted))


def _features(x: Tensor, leading: int = 1) -> Tensor:
    """``x`` with all axes behind the leading ones as one, a single feature where there is none."""
    return x.unsqueeze(-1).flatten(leading)


def _tolerances(problem: Problem, y: Tensor) -> tuple[Tensor, Tensor]:
    """[1] each, or [R, features] each."""
    given = (problem.rtol[0], problem.atol[0])
    numbers = not any(isinstance(tol, Tensor) for tol in given)
    shape = (1,) if numbers else problem.y0[0].shape
    rtol, atol = (torch.as_tensor(tol, dtype=y.dtype, device=y.device).expand(shape).contiguous() for tol in given)
    return (rtol, atol) if numbers else (rtol.view_as(y), atol.view_as(y))
