"""Solves of compiled fields in which every row has its own steps: one native call, and another for the gradient.

The steps are those that :mod:`fastode.loop` takes, decided by the same controller; a lane whose row has finished takes
the next row, so nothing is evaluated for rows that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import _native
from ..controller import Controller
from ..field import Field
from ..gradients.rows import Run, Solved, plain
from ..kernels.native.control import limits_of
from ..problem import Problem
from ..rows.clock import RowsClock
from ..rows.dense import Pieces
from ..rows.outputs import RowOutputs
from ..tableau import ButcherTableau
from ..tree import Parts
from .compiled import CompiledField, Native
from .dispatch import check_state_and_arguments, on_gpu, ready
from .engine import GradientPlaces, differentiable_once, most_states_within, native_method
from .packing import packings
from .refusal import NotServed
from .steps import QUARTIC

#: a row takes at least about so many evaluations, between which no thread waits for another
_EVALUATIONS = 50


class NativeRows:
    """A compiled field with a method and a controller, ready to solve rows.

    Attributes:
        problem: what it solves: the problem given, the parts of its state packed into one tensor.
        restore: gives the states of a solution the structure of the state.

    Args:
        first_step: whether the first steps are given.
        stops: whether steps must end at given times.
        dense_output: whether the polynomials of all steps are wanted.

    Raises:
        NotServed: the step loop has to do it.
    """

    def __init__(
        self,
        field: CompiledField,
        problem: Problem,
        tableau: ButcherTableau,
        controller: Controller,
        max_steps: int,
        first_step: bool,
        stops: bool,
        dense_output: bool,
    ) -> None:
        self.restore: Callable[[Parts], Any] = problem.restore_state
        if problem.spec is not None:
            field, problem, self.restore = _packed(field, problem)
        self.problem = problem
        y0, args = problem.y0[0], problem.field.args
        check_state_and_arguments(y0, args)
        native, inputs = ready(field, y0, args, time_per_row=True)
        self.native: Native = native
        #: where each part of the state ends, in features
        self.parts = field.parts or (native.lowered.features,)
        #: the per-row arguments, and the constants
        self.inputs = inputs
        self.field, self.tableau, self.controller, self.max_steps = field, tableau, controller, max_steps
        self.choose_first = not first_step
        self.prepare(y0, stops, dense_output)

    def prepare(self, y0: Tensor, stops: bool, dense_output: bool) -> None:
        """What the engine needs beside that.

        Raises:
            NotServed: the step loop has to do it.
        """
        self.method, self.limits = native_method(self.tableau), limits_of(self.controller)

    def integrate(self, problem: Problem, clock: RowsClock, outputs: RowOutputs, keep: bool) -> Any:
        """All steps of all rows, into ``clock`` and ``outputs``; the record of the accepted ones if they are kept."""
        y = clock.y[0]
        outputs.start(clock.t, clock.y)
        (rtol, atol), strides = _tolerances(problem, y)
        call = self._call(self.native.lowered.forward, y, *self.inputs)
        record = call.rows(
            clock.all.addresses,
            self.limits,
            self.max_steps,
            self.choose_first,
            y.data_ptr(),
            (rtol.data_ptr(), atol.data_ptr()),
            strides,
            self.parts,
            (outputs.due.data_ptr(), outputs.next.data_ptr(), outputs.ys[0].data_ptr()),
            outputs.ts.shape[1],
            most_states_within(self.field.memory, y, self.tableau) if keep else 0,
            outputs.dense,
        )
        self._account(problem, clock)
        if outputs.dense:
            outputs.pieces = [_pieces(record, clock.all.n_accepted, y)]
        return record

    def _account(self, problem: Problem, clock: RowsClock) -> None:
        """The solve is over."""
        clock.end(clock.y)
        attempts = clock.all.n_accepted + clock.all.n_rejected
        if len(attempts):
            evaluations = attempts * (self.tableau.stages - 1)
            if not self.tableau.last_stage_is_solution:
                evaluations += clock.all.n_accepted
            problem.stats.n_func = int(evaluations.max()) + 1 + self.choose_first

    def solve(self, problem: Problem, run: Run) -> Solved:
        """The solve, as one node where an input requires grad."""
        tensors = (problem.y0[0], *self.inputs[0], *self.inputs[1])
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in tensors):
            return plain(problem, run)
        box: list[Solved] = []
        ys, y, *quartics = _NativeRows.apply(self, problem, run, box, *tensors)
        return replace(box.pop(), ys=(ys,), y=(y,), quartics=tuple(quartics))

    def sweep(
        self,
        outputs: RowOutputs,
        y: Tensor,
        grads: tuple[Tensor, Tensor],
        grad_quartics: Sequence[Tensor],
        inputs: Sequence[Tensor],
        wanted: Any,
    ) -> list[Tensor | None]:
        """Gradients of the per-row arguments and the constants; that of ``y0`` takes the place of the last states'.

        Args:
            grads: cotangents of the outputs and of the last states.
            grad_quartics: that of the polynomials, or none.
        """
        grad_ys, grad_y = grads
        quartics = [g.contiguous() for g in grad_quartics]
        n = sum(self.native.per_row)
        places = GradientPlaces(inputs, n, wanted)
        program = self.native.lowered.adjoint(places.constants, places.arguments)
        t = outputs.clock.all.t
        self._call(program, y, inputs[:n], inputs[n:]).sweep_rows(
            outputs.record,
            y.data_ptr(),
            t.data_ptr(),
            grad_ys.data_ptr(),
            grad_ys.shape[1],
            quartics[0].data_ptr() if quartics and quartics[0].numel() else 0,
            grad_y.data_ptr(),
            *places.addresses,
        )
        at_start = outputs.at_start
        grad_y[at_start] += grad_ys[at_start, 0]
        return places.gradients

    def _call(self, program: Any, y: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor]) -> Any:
        return _native.FieldCall(
            program,
            self.method,
            y.element_size(),
            len(y),
            self.native.lowered.features,
            [c.data_ptr() for c in constants],
            [a.data_ptr() for a in arguments],
            self.native.lowered.threads(len(y) * _EVALUATIONS),
            False,
        )


def _packed(field: CompiledField, problem: Problem) -> tuple[CompiledField, Problem, Callable[[Parts], Any]]:
    """Both for the parts of a state packed into one tensor, and what unpacks it."""
    packing = packings(problem.y0, problem.spec)[0]
    packed, y = field.packed(packing), (packing.pack(problem.y0),)
    rtol, atol = (packing.tolerance_of_rows(tol, problem.y0) for tol in (problem.rtol, problem.atol))
    func = Field(packed, problem.field.args, y, None, problem.stats)
    found = replace(problem, field=func, y0=y, rtol=[rtol], atol=[atol], spec=None)
    return packed, found, lambda parts: packing.unpack(parts[0])


class _NativeRows(torch.autograd.Function):
    """Inputs after ``y0`` are the per-row arguments, then the constants."""

    @staticmethod
    def forward(
        ctx: Any, rows: NativeRows, problem: Problem, run: Run, box: list[Solved], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        solved = plain(problem, run, "states")
        box.append(solved)
        ctx.rows, ctx.outputs = rows, solved.outputs
        y = solved.y[0]
        ctx.save_for_backward(y, *tensors[1:])
        return solved.ys[0], y, *solved.quartics

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_ys: Tensor, grad_y: Tensor, *grad_quartics: Tensor) -> tuple[Tensor | None, ...]:
        outputs: RowOutputs = ctx.outputs
        y, *inputs = ctx.saved_tensors
        grad_ys, bar = grad_ys.contiguous(), grad_y.clone(memory_format=torch.contiguous_format)
        at_end = outputs.at_end
        bar[at_end] += grad_ys[at_end, outputs.next[at_end] - 1]
        found = ctx.rows.sweep(outputs, y, (grad_ys, bar), grad_quartics, inputs, ctx.needs_input_grad[5:])
        return None, None, None, None, bar, *found


def _pieces(record: _native.FieldRowRecord, n_accepted: Tensor, y: Tensor) -> Pieces:
    """The polynomials of all steps, one row after the other."""
    rows = torch.arange(len(y)).repeat_interleave(n_accepted)
    t, dt = torch.empty(2, len(rows), dtype=torch.float64).unbind()
    quartics = y.new_empty(len(rows), QUARTIC, *y.shape[1:])
    record.take_pieces(t.data_ptr(), dt.data_ptr(), quartics.data_ptr())
    return Pieces(rows, t, dt, (quartics,))


def _tolerances(problem: Problem, y: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
    """Relative and absolute tolerances, and how far one row and one feature is from the next."""
    given = (problem.rtol[0], problem.atol[0])
    if not any(isinstance(tol, Tensor) for tol in given):
        return [torch.tensor([tol], dtype=y.dtype) for tol in given], (0, 0)
    full = [torch.as_tensor(tol, dtype=y.dtype).expand(y.shape).contiguous() for tol in given]
    return full, (y[0].numel() if len(y) else 0, 1)


def _fused_rows() -> type[NativeRows]:
    """The class that solves on a GPU.

    Raises:
        NotServed: Triton is not installed.
    """
    try:
        from .gpu.row_solve import FusedRows
    except ImportError as error:
        raise NotServed(f"Triton is not installed ({error})") from error
    return FusedRows


def rows_natively(refused: str, *request: Any) -> tuple[NativeRows | None, str]:
    """:class:`NativeRows` of the request, or None and the reason why there is none: one found before, or its own."""
    try:
        if refused:
            raise NotServed(refused)
        _, problem, *_ = request
        return (_fused_rows() if on_gpu(problem.y0[0]) else NativeRows)(*request), ""
    except NotServed as reason:
        return None, f"not native: {reason}"
