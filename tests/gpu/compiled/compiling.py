"""Launchers of fused kernels that compile for a target and report, instead of launching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiler.fields import angles_and_rounding, lotka_volterra
from compiler.registry import Wrapped

from fastode.compiler.gpu.configurations import settings_for
from fastode.compiler.gpu.evaluate import evaluate
from fastode.compiler.gpu.fused import FusedProgram
from fastode.compiler.gpu.grid import solve_grid
from fastode.compiler.gpu.kernels import Kernels
from fastode.compiler.gpu.rows import RowRecord, solve_rows
from fastode.compiler.gpu.step import attempt_step
from fastode.compiler.steps import GridSteps
from fastode.controller import Controller
from fastode.kernels.row_state import RowState
from fastode.methods import lookup
from gpu.fields import Traced, mlp, traced, wide

report = pytest.importorskip("gpu_lab.report")

ROWS = 100
KERNELS = ("evaluate", "solve_rows", "solve_grid", "attempt_step")
FIELDS: dict[str, Callable[[torch.dtype, bool], Traced]] = {
    "lotka_volterra": lambda dtype, shared: traced(
        lotka_volterra, torch.ones(ROWS, 2, dtype=dtype), shared_time=shared
    ),
    "network": lambda dtype, shared: wide("two_hidden_layers_of_64", dtype, ROWS, None, shared),
    "flow": lambda dtype, shared: wide("two_hidden_layers_of_64", dtype, ROWS, "exact", shared),
}


def _of_width(width: int, divergence: str | None) -> Callable[[torch.dtype, bool], Traced]:
    def field(dtype: torch.dtype, shared: bool) -> Traced:
        y = torch.ones(ROWS, 2, dtype=dtype)
        return traced(Wrapped(mlp(2, width, width, 2)).to(dtype), y, divergence=divergence, shared_time=shared)

    return field


ANGLES: dict[str, Callable[[torch.dtype, bool], Traced]] = {
    "angles_and_rounding": lambda dtype, shared: traced(
        angles_and_rounding, torch.ones(ROWS, 3, dtype=dtype), shared_time=shared
    ),
}

LARGER: dict[str, Callable[[torch.dtype, bool], Traced]] = {
    "concatsquash_flow": lambda dtype, shared: wide("concatsquash", dtype, ROWS, "exact", shared),
    "hutchinsons_flow": lambda dtype, shared: wide("two_hidden_layers_of_64", dtype, ROWS, "hutchinson", shared),
    "network_of_128": _of_width(128, None),
    "flow_of_128": _of_width(128, "exact"),
    "network_of_256": _of_width(256, None),
}


class Reporting(Kernels):
    """Kernels that are compiled for a target where they would be launched.

    Attributes:
        reports: by the kernel's name.
    """

    target: int | str
    reports: dict[str, Any]

    def compile_for(self, target: int | str) -> None:
        """From now on, in new reports."""
        self.target, self.is_amd, self.reports = target, isinstance(target, str), {}

    def kernel(self, make: Callable[..., Any], *key: Any) -> Any:
        function = super().kernel(make, *key)

        class Compiling:
            def __getitem__(_, grid: tuple[int, ...]) -> Callable[..., None]:
                def compiled(*args: Any, **keywords: Any) -> None:
                    found = report.compile_for(self.target, function, args, grid, **keywords)
                    self.reports[function.fn.__name__] = found

                return compiled

        return Compiling()


class ReportingProgram(Reporting, FusedProgram):
    """The kernels of solves."""


def reports(field: str, dtype: torch.dtype, target: int | str, kernel: str, precision: str = "ieee") -> dict[str, Any]:
    """Reports on a kernel, and on those that are launched with it."""
    found = FIELDS[field](dtype, kernel in ("solve_grid", "attempt_step"))
    settings = settings_for(found.program, found.dtype, precision)
    program = ReportingProgram(found.program, found.dtype, found.shared_time, settings)
    program.compile_for(target)
    features = found.features
    y = torch.ones(ROWS, features, dtype=dtype)
    t = torch.zeros(ROWS, dtype=torch.float64)
    tolerances = (torch.ones(1, dtype=dtype), torch.ones(1, dtype=dtype))
    inputs = (found.arguments, found.constants)
    match kernel:
        case "evaluate":
            evaluate(program, t, y, *inputs)
        case "solve_rows":
            state = RowState.begin(t, t + 1, None)
            times, out = torch.zeros(ROWS, 3, dtype=torch.float64), torch.zeros(ROWS, 3, features, dtype=dtype)
            outputs = (times, torch.zeros(ROWS, dtype=torch.int64), out, RowRecord.for_steps(y, 8))
            solve_rows(program, lookup("dopri5"), y, *inputs, state, tolerances, Controller(5), 100, *outputs)
        case "solve_grid":
            steps = GridSteps([0.0, 1.0], [-1, 0], [0.0, 1.0])
            solve_grid(program, lookup("rk4"), y, *inputs, steps, torch.zeros(2, ROWS, features, dtype=dtype))
        case "attempt_step":
            attempt_step(program, lookup("dopri5"), (t[0],) * 3, y, y, *inputs, tolerances, [features])
    return program.reports
