"""Sweeps compile for GPUs of several makers; how many registers they spill is known, and small where it is not zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastode.compiler.gpu.fused_sweep import FusedSweep
from fastode.compiler.gpu.rows import RowRecord
from fastode.compiler.gpu.sweep import sweep_steps
from fastode.compiler.gpu.sweep_rows import sweep_rows
from fastode.methods import lookup

from .compiling import FIELDS, ROWS, Reporting

#: a compilation takes seconds: the other targets in the slow tests
TARGETS = [80, *(pytest.param(target, marks=pytest.mark.slow) for target in (90, 100, "gfx942"))]
#: bytes of a thread that may be spilled in float32: of shared steps, and of rows' own
SPILLED = {
    ("network", 90): (0, 28),
    ("network", 100): (0, 92),
    ("flow", 80): (44, 36),
    ("flow", 90): (40, 48),
    ("flow", 100): (44, 48),
}
#: and in float64, whose tiles take twice the registers
SPILLED_DOUBLE = {
    ("network", 80): (112, 352),
    ("network", 90): (156, 348),
    ("network", 100): (108, 256),
    ("flow", 80): (296, 1448),
    ("flow", 90): (328, 1520),
    ("flow", 100): (156, 320),
    ("flow", "gfx942"): (8, 0),
}


class ReportingSweep(Reporting, FusedSweep):
    """The kernels of sweeps."""


def reports(field: str, dtype: torch.dtype, target: int | str, rows: bool) -> dict[str, Any]:
    """Reports on the kernels of a sweep with the gradients of all constants."""
    found = FIELDS[field](dtype, not rows)
    sweep = ReportingSweep(found.program, dtype, not rows, range(len(found.constants)))
    sweep.compile_for(target)
    y, times = torch.ones(ROWS, found.features, dtype=dtype), torch.zeros(ROWS, 2, dtype=torch.float64)
    inputs = (found.arguments, found.constants)
    if rows:
        counts = torch.zeros(ROWS, dtype=torch.int64)
        grads = (torch.zeros(ROWS, 2, found.features, dtype=dtype), y)
        sweep_rows(sweep, lookup("dopri5"), RowRecord.for_steps(y, 8), counts, times, counts, *grads, *inputs)
    else:
        steps = torch.zeros(8, 5, dtype=torch.float64)
        sweep_steps(sweep, lookup("dopri5"), steps, y.expand(8, -1, -1), times[0], 1, torch.stack([y, y]), *inputs)
    return sweep.reports


@pytest.mark.parametrize("rows", [False, True], ids=["shared_steps", "own_steps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("target", TARGETS)
def test_sweeps_compile_in_their_own_precision(target: int | str, field: str, dtype: torch.dtype, rows: bool) -> None:
    found = reports(field, dtype, target, rows)
    # the rates of Lotka and Volterra's equations are numbers of the program, not constants
    sums = [] if field == "lotka_volterra" else ["add_slices"]
    assert list(found) == ["sweep_rows" if rows else "sweep_steps", *sums]
    known = (SPILLED_DOUBLE if dtype == torch.float64 else SPILLED).get((field, target), (0, 0))
    for name, kernel in found.items():
        allowed = 0 if name == "add_slices" else known[rows]
        assert kernel.spill_stores <= allowed, f"{name}: {kernel}"
        assert kernel.instructions["HMMA"] == 0, f"{name}: tf32 where float32 was asked for"
        if dtype == torch.float64:
            assert kernel.float32_constants_in_float64() == [], name
