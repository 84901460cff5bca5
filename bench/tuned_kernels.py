"""The kernels whose block sizes are compared: those of a step, and the fused ones of a 2-64-64-2 field."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import fastode
from fastode.compiler.gpu.configurations import settings_for, sweep_settings_for
from fastode.compiler.gpu.fused import FusedProgram
from fastode.compiler.gpu.fused_sweep import FusedSweep
from fastode.compiler.gpu.rows import solve_rows
from fastode.compiler.gpu.settings import PRECISIONS, Settings
from fastode.compiler.gpu.step import attempt_step
from fastode.compiler.gpu.sweep import sweep_steps
from fastode.controller import Controller
from fastode.kernels.reference import stage as stage_of
from fastode.kernels.row_state import RowState
from fastode.kernels.triton import DeviceState, PartialSums, Tolerances, commit, finish, stage
from fastode.methods import lookup

from .problems import MLPField, seeded, state
from .tuning import Trial

#: elements of a state of float32, and of a block
ELEMENTS, BLOCKS, BLOCK_WARPS = (2**17, 2**22), (256, 512, 1024, 2048, 4096), (4, 8)
#: rows of a batch, of a tile, and warps that share a tile
BATCHES, ROWS, WARPS = (2048, 65536), (8, 16, 32), (2, 4, 8)
#: a gradient's products sum over the rows of a tile, 16 at least
SWEPT_ROWS = (16, 32)
#: steps of the solve whose gradient is timed
STEPS = 4
TOLERANCE = 1e-6
DOPRI5 = lookup("dopri5")


def trials(device: str) -> Iterator[Trial]:
    """All of them; those of a step first, which compile fast."""
    for elements in ELEMENTS:
        yield from step_trials(elements, device)
    for batch in BATCHES:
        field = TracedField(batch, device)
        yield from field.attempts()
        yield from field.rows()
        yield from field.sweeps()


def step_trials(elements: int, device: str) -> Iterator[Trial]:
    """stage, finish and commit of one shared step on so many elements, in float32."""
    y, *slopes = (torch.full((1, elements), 1.0 + i, device=device) for i in range(8))
    dt = torch.full((1,), 0.1, dtype=torch.float64, device=device)

    def stages() -> Callable[[], object]:
        return lambda: stage(y, dt, slopes[:6], DOPRI5.weights[:6])

    def errors() -> Callable[[], object]:
        partial, tolerances = PartialSums.of((y,), 1), Tolerances((y,), (TOLERANCE,), (TOLERANCE,)).pairs
        return lambda: finish(
            y, slopes[6], False, dt, slopes, DOPRI5.weights, DOPRI5.error_weights, tolerances[0], partial, 0
        )

    def commits() -> Callable[[], object]:
        at = _accepted(device)
        out = y.new_empty((1, 1, elements))
        return lambda: commit(y, slopes[6], slopes, at, out, DOPRI5.mid_weights)

    read = {"stage": (stages, 7), "finish": (errors, 8), "commit": (commits, 4)}
    for kernel, (prepare, passes) in read.items():
        module = importlib.import_module(f"fastode.kernels.triton.{kernel}")
        for block in BLOCKS:
            for warps in BLOCK_WARPS:
                yield Trial(
                    kernel,
                    f"{elements} elements",
                    f"block {block}, {warps} warps",
                    (block, warps) == (1024, 4),
                    functools.partial(_with, module, kernel, block, warps, prepare),
                    moved=passes * 4 * elements,
                )


class _WithWarps:
    """A kernel that is launched with another number of warps."""

    def __init__(self, kernel: Any, warps: int) -> None:
        self.kernel, self.warps = kernel, warps

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda *args, **named: self.kernel[grid](*args, **{**named, "num_warps": self.warps})


def _with(
    module: Any, name: str, block: int, warps: int, prepare: Callable[[], Callable[[], object]]
) -> Callable[[], object]:
    """What ``prepare`` gives, made and called with other constants in the module of a kernel's launcher."""
    launch = importlib.import_module("fastode.kernels.triton.launch")
    kernel = f"{name}_kernel"

    def patched() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(mock.patch.object(module, kernel, _WithWarps(getattr(module, kernel), warps)))
        if name == "finish":
            stack.enter_context(mock.patch.multiple(launch, WIDEST=block, ELEMENTS=block))
        else:
            stack.enter_context(mock.patch.object(module, "BLOCK", block))
        return stack

    with patched():
        call = prepare()

    def run() -> object:
        with patched():
            return call()

    return run


def _accepted(device: str) -> DeviceState:
    """One row whose attempt was just accepted and passed no output."""
    t = torch.zeros(1, dtype=torch.float64, device=device)
    due = torch.full((1, 1), torch.nan, dtype=torch.float64, device=device)
    rule = Controller(DOPRI5.order)
    at = DeviceState.begin(t, t + 1, t.new_empty((1, 0)), due, DOPRI5.stages, torch.float32, rule, 100)
    at.count("accept").fill_(1)
    return at


class TracedField:
    """The field 2-64-64-2 as the GPU's compiler takes it, on a batch in float32."""

    def __init__(self, batch: int, device: str) -> None:
        self.device, self.batch = device, batch
        self.module = seeded(lambda: MLPField(2, 64)).to(device)
        self.y = state(batch, 2).to(device)
        self.size = f"{batch} rows"

    def _program(self, shared_time: bool) -> tuple[Any, list[Tensor]]:
        native = fastode.compile(self.module).native(self.y, (), time_per_row=not shared_time)
        return native.traced.program, [c.detach() for c in native.constants((), self.y.dtype)]

    def _settings(self, base: Callable[..., Settings], program: Any, rows: tuple[int, ...]) -> Iterator[Any]:
        """Every combination, as it is printed, and whether it is in use."""
        for precision in PRECISIONS:
            standard = base(program, self.y.dtype, precision)
            for r in rows:
                for warps in WARPS:
                    text = f"{r} rows, {warps} warps, {precision}"
                    chosen = replace(standard, rows=r, warps=warps)
                    yield text, chosen, chosen == base(program, self.y.dtype)

    def attempts(self) -> Iterator[Trial]:
        """One attempt of a step that all rows share."""
        program, constants = self._program(True)
        tableau, y = DOPRI5, self.y
        t, dt, t1 = (torch.tensor(x, dtype=torch.float64, device=self.device) for x in (0.0, 0.1, 0.1))
        slope = self.module(t, y).detach()
        tolerances = (y.new_full((1,), TOLERANCE), y.new_full((1,), TOLERANCE))
        expected = self._step_in_double(0.1)

        for text, settings, in_use in self._settings(settings_for, program, ROWS):

            def call(settings: Settings = settings) -> Callable[[], Any]:
                fused = FusedProgram(program, y.dtype, True, settings)
                into = attempt_step(fused, tableau, (t, dt, t1), y, slope, (), constants, tolerances, (2,))
                return lambda: attempt_step(
                    fused, tableau, (t, dt, t1), y, slope, (), constants, tolerances, (2,), into
                )

            def error(call: Callable[[], Callable[[], Any]] = call) -> float:
                return float((call()().y1.double() - expected).norm() / expected.norm())

            yield Trial("attempt of a shared step", self.size, text, in_use, call, error=error)

    def rows(self) -> Iterator[Trial]:
        """A solve in which every row has steps of its own, by attempt of the row that takes most."""
        program, constants = self._program(False)
        tableau, y = DOPRI5, self.y
        t0 = torch.zeros(len(y), dtype=torch.float64, device=self.device)
        tolerances = (y.new_full((1,), TOLERANCE), y.new_full((1,), TOLERANCE))
        times, out = t0.new_empty((len(y), 0)), y.new_empty((len(y), 0, 2))

        @functools.cache
        def fused(settings: Settings) -> FusedProgram:
            return FusedProgram(program, y.dtype, False, settings)

        def solve(settings: Settings) -> RowState:
            at, rule = RowState.begin(t0, t0 + 10, None), Controller(tableau.order)
            start, reached = y.clone(), torch.zeros_like(at.n_accepted)
            program = fused(settings)
            solve_rows(program, tableau, start, (), constants, at, tolerances, rule, 10_000, times, reached, out)
            return at

        def attempts(settings: Settings) -> int:
            at = solve(settings)
            return int((at.n_accepted + at.n_rejected).max())

        for text, settings, in_use in self._settings(settings_for, program, ROWS):
            call, count = functools.partial(solve, settings), functools.partial(attempts, settings)
            yield Trial("solve of rows, by attempt", self.size, text, in_use, lambda call=call: call, count)

    def sweeps(self) -> Iterator[Trial]:
        """The gradient of a solve, by step."""
        program, constants = self._program(True)
        tableau, y = DOPRI5, self.y
        # start, size, end, the first output inside and the one after the last: only the end of the last step is one
        numbers = [[i / STEPS, 1 / STEPS, (i + 1) / STEPS, 1, 2 if i == STEPS - 1 else 1] for i in range(STEPS)]
        steps = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        states, grad = y.repeat(STEPS, 1, 1), torch.ones_like(y).repeat(2, 1, 1)
        times = torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.device)

        for text, settings, in_use in self._settings(sweep_settings_for, program, SWEPT_ROWS):

            def call(settings: Settings = settings) -> Callable[[], Any]:
                sweep = FusedSweep(program, y.dtype, True, range(len(constants)), settings=settings)
                return lambda: sweep_steps(sweep, tableau, steps, states, times, 1, grad, (), constants)

            yield Trial("gradient of shared steps, by step", self.size, text, in_use, call, lambda: STEPS)

    def _step_in_double(self, dt: float) -> Tensor:
        """The new state of one step, in float64 and plain torch."""
        field = seeded(lambda: MLPField(2, 64)).to(self.device).double()
        y, start = self.y.double(), torch.zeros((), dtype=torch.float64, device=self.device)
        with torch.no_grad():
            k = [field(start, y)]
            for a in DOPRI5.matrix[1:]:
                k.append(field(start, stage_of(y, dt, k, a)))
            return stage_of(y, dt, k, DOPRI5.weights)
