"""Sweeps compile for GPUs of several makers; how many registers they spill is known, and small where it is not zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastode.compiler.gpu.configurations import sweep_settings_for
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
    ("network", 90): (0, 20),
    ("network", 100): (0, 72),
    ("flow", 80): (44, 36),
    ("flow", 90): (40, 48),
    ("flow", 100): (44, 48),
}
#: and in float64, whose tiles take twice the registers
SPILLED_DOUBLE = {
    ("network", 80): (0, 8),
    ("network", 90): (0, 20),
    ("network", 100): (84, 256),
    ("flow", 80): (68, 144),
    ("flow", 90): (60, 92),
    ("flow", 100): (188, 344),
}


class ReportingSweep(Reporting, FusedSweep):
    """The kernels of sweeps."""


def reports(field: str, dtype: torch.dtype, target: int | str, rows: bool, precision: str = "ieee") -> dict[str, Any]:
    """Reports on the kernels of a sweep with the gradients of all constants."""
    found = FIELDS[field](dtype, not rows)
    settings = sweep_settings_for(found.program, dtype, precision, target != 100)
    sweep = ReportingSweep(found.program, dtype, not rows, range(len(found.constants)), settings=settings)
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


@pytest.mark.parametrize(
    ("dtype", "precision", "functions"),
    # in float64 only the quotient of a hyperbolic tangent is one of the special functions
    [(torch.float32, "ieee", 2), (torch.float32, "tf32x3", 2), (torch.float32, "tf32", 2), (torch.float64, "ieee", 1)],
    ids=str,
)
def test_hidden_layers_are_computed_once_on_the_way_forward_and_once_on_the_way_back(
    dtype: torch.dtype, precision: str, functions: int
) -> None:
    found = reports("flow", dtype, 80, False, precision)["sweep_steps"]
    # two layers of 64 units for 16 rows, in instructions that 32 threads share
    needed = 2 * (2 * 64 * 16) * functions // 32
    elsewhere = 3 * found.warps
    assert needed <= found.instructions["MUFU"] * found.warps <= needed + elsewhere
