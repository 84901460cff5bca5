"""What the compilers make of the step kernels: for three generations of NVIDIA's GPUs and one of AMD's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from gpu_lab.report import Report, compile_for

from fastode.controller import Controller
from fastode.kernels.triton import DeviceState, PartialSums, Tolerances, commit, control, finish, poll, stage
from fastode.kernels.triton.combine import combine
from fastode.methods import lookup

TARGETS = (80, 90, 100, "gfx942")
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
#: one long row, many narrow rows, rows as wide as half a warp's loads, rows of an odd width
SHAPES = [(1, 4096), (4096, 2), (64, 64), (64, 7)]
#: a block of 128 threads fits seven times on a multiprocessor with 65,536 registers where a thread has 72 of them
MOST_REGISTERS = {
    "stage": 72, "cotangent": 72, "combine": 72, "finish": 168, "control": 128, "commit": 255, "poll": 128,
}  # fmt: skip
#: one element of the state after another, whatever the rows
FLAT = ("stage", "cotangent", "combine")

Launch = Callable[[], None]


class Recorder:
    """In the place of a kernel: compiles what would be launched."""

    def __init__(self, kernel: Any, target: int | str, reports: dict[str, Report]) -> None:
        self.kernel, self.target, self.reports = kernel, target, reports

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **named: Any) -> None:
            name = self.kernel.fn.__name__.removesuffix("_kernel")
            self.reports[name] = compile_for(self.target, self.kernel, args, grid, **named)

        return launch


@pytest.fixture(scope="module", params=TARGETS, ids=str)
def target(request: pytest.FixtureRequest) -> int | str:
    return request.param


def reports_of(target: int | str, dtype: torch.dtype, shape: tuple[int, int], method: str) -> dict[str, Report]:
    """Of the kernels of one attempt, as :class:`fastode.device.attempt.Attempt` launches them, and of gradients."""
    reports: dict[str, Report] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("stage", "finish", "control", "commit", "combine"):
            module = importlib.import_module(f"fastode.kernels.triton.{name}")
            for kernel in [k for k in vars(module) if k.endswith("_kernel")]:
                patch.setattr(module, kernel, Recorder(getattr(module, kernel), target, reports))
        rows = shape[0]
        tableau = lookup(method)
        y, k = torch.zeros(shape, dtype=dtype), [torch.zeros(shape, dtype=dtype) for _ in range(tableau.stages)]
        t = torch.zeros(rows, dtype=torch.float64)
        state = DeviceState.begin(t, t, t.new_zeros(rows, 0), t.new_zeros(rows, 3), 7, dtype, Controller(order=5), 9)
        partial = PartialSums.of((y,), rows, lockstep=rows == 1)
        stage(None, state.real("dt"), k, [1.0] * len(k))
        reports["cotangent"] = reports.pop("stage")
        stage(y, state.real("dt"), k, [1.0] * len(k))
        combine(y, k, [0.5] * len(k))
        write = not tableau.last_stage_is_solution
        tolerance = Tolerances((y,), [1e-3], [1e-3]).pairs[0]
        finish(y, y, write, state.real("dt"), k, tableau.weights, tableau.error_weights, tolerance, partial, 0)
        control(state, partial, tableau.nodes, lockstep=rows == 1)
        out = torch.zeros(rows, 2, *shape[1:], dtype=dtype)
        commit(y, y, k, state, out, tableau.mid_weights)
        poll(state, torch.zeros(3, dtype=torch.float64))
    return reports


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64", "bfloat16"])
def test_the_kernels_of_dopri5(target: int | str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    for name, report in reports_of(target, dtype, shape, "dopri5").items():
        assert not report.spills, (name, str(report))
        assert report.registers <= MOST_REGISTERS[name], (name, str(report))
        assert report.shared <= 16 * 1024, (name, str(report))
        if dtype == torch.float64 or name in ("control", "poll"):
            assert report.float32_constants_in_float64() == [], name
        contiguous = shape[1] % 64 == 0
        if target != "gfx942" and (name in FLAT or (contiguous and name in ("finish", "commit"))):
            expected = 64 if dtype == torch.bfloat16 and name == "commit" else 128
            if shape != (64, 7):
                assert report.widest("load") >= expected, (name, str(report))


@pytest.mark.parametrize("method", ["dopri8", "tsit5", "bosh3", "adaptive_heun", "fehlberg2"])
@pytest.mark.parametrize("target", [80, "gfx942"], ids=str)
def test_the_kernels_of_all_other_pairs(target: int | str, method: str) -> None:
    for dtype in (torch.float32, torch.float64):
        for name, report in reports_of(target, dtype, (64, 64), method).items():
            assert not report.spills, (name, str(report))
            if dtype == torch.float64:
                assert report.float32_constants_in_float64() == [], name
