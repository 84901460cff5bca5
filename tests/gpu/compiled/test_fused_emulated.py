"""The machine code of fused kernels, executed instruction by instruction on the CPU, with a watch on races."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compiler.fields import lotka_volterra
from torch import Tensor

import fastode
from fastode.compiler.engine import Job, Lowered
from fastode.compiler.evaluate import evaluate as by_torch
from fastode.compiler.gpu.configurations import settings_for
from fastode.compiler.gpu.fused import FusedProgram
from fastode.compiler.gpu.grid import solve_grid
from fastode.compiler.gpu.rows import RowRecord, solve_rows
from fastode.compiler.gpu.step import attempt_step
from fastode.compiler.steps import GridSteps
from fastode.controller import Controller
from fastode.kernels.row_state import RowState
from fastode.methods import lookup
from gpu.fields import Traced, traced, wide

emulator = pytest.importorskip("gpu_lab.emulator")

#: not a multiple of a tile
ROWS = 11
RTOL, ATOL = 1e-3, 1e-4


def fused(found: Traced, precision: str = "ieee", in_memory: bool = False) -> FusedProgram:
    settings = settings_for(found.program, found.dtype, precision)
    settings = replace(settings, slopes_in_memory=in_memory or settings.slopes_in_memory)
    return FusedProgram(found.program, found.dtype, found.shared_time, settings)


def field(name: str, dtype: torch.dtype, divergence: str | None, shared_time: bool = False) -> Traced:
    if name == "lotka_volterra":
        return traced(lotka_volterra, torch.ones(ROWS, 2, dtype=dtype), shared_time=shared_time)
    return wide(name, dtype, ROWS, divergence, shared_time)


@pytest.mark.parametrize(
    ("name", "dtype", "divergence", "precision", "in_memory", "tolerance"),
    [
        ("lotka_volterra", torch.float32, None, "ieee", False, 1e-6),
        ("lotka_volterra", torch.float64, None, "ieee", True, 1e-14),
        ("two_hidden_layers_of_64", torch.float32, "exact", "ieee", False, 2e-6),
        ("two_hidden_layers_of_64", torch.float32, "exact", "tf32x3", False, 2e-6),
        ("two_hidden_layers_of_64", torch.float64, "exact", "ieee", False, 1e-14),
        ("wide_state", torch.float32, None, "ieee", True, 2e-6),
    ],
    ids=str,
)
def test_rows_take_the_steps_of_the_cpu(
    name: str, dtype: torch.dtype, divergence: str | None, precision: str, in_memory: bool, tolerance: float
) -> None:
    found = field(name, dtype, divergence)
    y0 = 0.2 + torch.rand(ROWS, found.features, dtype=dtype)
    t0 = torch.linspace(0.0, 0.5, ROWS, dtype=torch.float64)
    t_end = t0 + torch.linspace(1.0, -1.3, ROWS, dtype=torch.float64)
    times = torch.stack([t0, t0 + 0.3 * (t_end - t0), t0 + 0.31 * (t_end - t0), t_end], 1)

    def func(t: Tensor, y: Tensor) -> Tensor:
        seen = y[:, : found.program.state_width]
        return by_torch(found.program, t, seen, found.arguments, found.constants)[0]

    expected = fastode.solve(func, y0, t_span=(t0, t_end), t_eval=times, rtol=RTOL, atol=ATOL, compact=False)
    state, y = RowState.begin(t0, t_end, None), y0.clone()
    ys = torch.full((ROWS, 4, found.features), torch.nan, dtype=dtype)
    tolerances = (torch.tensor([RTOL], dtype=dtype), torch.tensor([ATOL], dtype=dtype))
    outputs = (times, torch.zeros(ROWS, dtype=torch.int64), ys, RowRecord.for_steps(y, 16))
    inputs = (found.arguments, found.constants, state, tolerances, Controller(5), 1000)
    with emulator.emulated_gpu(races=True):
        solve_rows(fused(found, precision, in_memory), lookup("dopri5"), y, *inputs, *outputs)
    assert torch.equal(state.status, expected.status)
    assert torch.equal(state.n_accepted, expected.stats.n_accepted)
    assert torch.equal(state.n_rejected, expected.stats.n_rejected)
    torch.testing.assert_close(ys, expected.ys, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(y, expected.y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("in_memory", [False, True], ids=["registers", "memory"])
def test_grids_are_those_of_the_cpu(in_memory: bool, dtype: torch.dtype, tolerance: float) -> None:
    found = field("two_hidden_layers_of_64", dtype, "hutchinson", shared_time=True)
    y0 = torch.randn(ROWS, found.features, dtype=dtype)
    steps = GridSteps([0.0, 0.25, 0.5], [-1, 0, 1], [0.0, 0.25, 1.0])
    lowered = Lowered(found.program, tuple(tuple(c.shape) for c in found.constants))
    job = Job(lowered, lookup("rk4"), "rk4", [0.0] * 3, steps, False, ROWS, found.features)
    expected, _ = job.run(y0, found.arguments, found.constants, keep=False)
    out = torch.full_like(expected, torch.nan)
    with emulator.emulated_gpu(races=True):
        solve_grid(fused(found, in_memory=in_memory), lookup("rk4"), y0, found.arguments, found.constants, steps, out)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


def test_a_kernel_is_compiled_once_whatever_the_batch_the_times_and_the_limits() -> None:
    found = field("lotka_volterra", torch.float32, None)
    program, tableau = fused(found), lookup("bosh3")
    used = []
    make = program.kernel

    def noted(*args: object) -> object:
        used.append(make(*args))
        return used[-1]

    program.kernel = noted  # type: ignore[method-assign]
    with emulator.emulated_gpu():
        for rows, n_times, capacity, max_steps in ((1, 1, 1, 1), (16, 16, 16, 16), (33, 3, 2, 1000)):
            # a batch that begins anywhere in memory
            y = torch.ones(rows + 1, 2)[1:]
            t = torch.zeros(rows, dtype=torch.float64)
            state = RowState.begin(t, t + 0.1, None)
            times = torch.linspace(0.0, 0.1, n_times, dtype=torch.float64).repeat(rows, 1)
            outputs = (times, torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, n_times, 2))
            tolerances = (torch.tensor([1.0 / rows]), torch.tensor([1.0 / rows]))
            record = RowRecord.for_steps(y, capacity)
            solve_rows(program, tableau, y, [], [], state, tolerances, Controller(3), max_steps, *outputs, record)
    kernels = {id(k): k for k in used}.values()
    assert [k.fn.__name__ for k in kernels] == ["start", "solve_rows"]
    for k in kernels:
        # for each device that this process has pretended to have
        compiled = [cache for cache, *_ in k.device_caches.values() if cache]
        assert compiled and all(len(cache) == 1 for cache in compiled), k.fn.__name__


def test_the_rounding_of_products_is_what_was_asked_for() -> None:
    found = field("two_hidden_layers_of_64", torch.float32, "exact", shared_time=True)
    y = torch.randn(ROWS, 3)
    times = tuple(torch.tensor(t, dtype=torch.float64) for t in (0.0, 0.1, 0.1))
    tolerances = (torch.tensor([RTOL]), torch.tensor([ATOL]))
    constants = [c.double() for c in found.constants]
    errors = {}
    for precision in ("ieee", "tf32x3", "tf32"):
        zero = torch.zeros_like(y)
        with emulator.emulated_gpu(races=True):
            tried = attempt_step(
                fused(found, precision), lookup("dopri5"), times, y, zero, [], found.constants, tolerances, [2, 3]
            )
        (slope,) = by_torch(found.program, 0.1, tried.y1[:, :2].double(), [], constants)
        errors[precision] = float((tried.last_slope - slope).abs().max() / slope.abs().max())
    assert errors["ieee"] < 1e-6 and errors["tf32x3"] < 1e-6
    assert 1e-5 < errors["tf32"] < 5e-3
