"""The CUDA kernels without a GPU: their source run on the CPU in several thread orders, and what nvcc says of it."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastode import _native
from fastode.controller import Controller
from fastode.kernels.native.control import RowControl, limits_of
from fastode.kernels.reference import rms_rows, scaled_error, stage
from fastode.kernels.row_state import RowState
from fastode.methods import lookup
from fastode.tableau import ButcherTableau

from .cuda_on_cpu import ORDERS, ROOT, SOURCES, CudaOnCpu, compiler

SPECIAL = torch.tensor([0.0, -0.0, 5e-324, 1e-42, 1.0, -1.0, 1e30, math.inf, -math.inf, math.nan], dtype=torch.float64)
#: rows and columns; from 257 columns on a row takes a block
SHAPES = [
    (1, 1),
    (127, 1),
    (600, 2),
    (5, 3),
    (33, 17),
    (2, 63),
    (9, 256),
    (3, 257),
    (1, 1000),
    (4, 1000),
    (0, 3),
    (3, 0),
]
each_order = pytest.mark.parametrize("order", ORDERS)
each_method = pytest.mark.parametrize("method", ["adaptive_heun", "dopri5", "dopri8"])
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
each_kind = pytest.mark.parametrize("special", [False, True], ids=["ordinary", "special"])


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in every element, NaN where the other is."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))


def random_rows(n: int) -> RowState:
    generator = torch.Generator().manual_seed(n)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, dtype=torch.float64, generator=generator)

    t0, t_end = uniform(-1, 1), uniform(-1, 1)
    stops = t0[:, None] + (t_end - t0)[:, None] * torch.tensor([1e-9, 0.1, 0.5], dtype=torch.float64)
    state = RowState.begin(t0, t_end, 10 ** uniform(-18, 1), stops)
    special = [0.0, 5e-324, 1.0, 1.0000000000000002, float("inf"), float("nan"), 1e300]
    state.err.copy_(10 ** uniform(-6, 3))
    state.err[: len(special)] = torch.tensor(special, dtype=torch.float64)[:n]
    state.t_end[::11] = state.t[::11]
    state.next_stop[::2] = 3
    return state


@each_order
@pytest.mark.parametrize("n", [1, 127, 128, 1000])
def test_the_controller_has_the_bits_of_the_native_one_in_any_order(cuda_on_cpu: CudaOnCpu, n: int, order: str) -> None:
    cuda_on_cpu.order(order)
    controller = Controller(order=5, filter=(0.58, -0.21, 0.1))
    limits = limits_of(controller)
    ours, theirs = random_rows(n), random_rows(n)
    native = RowControl(ours, controller, 4)
    native.start()
    cuda_on_cpu.module.start_rows(n, theirs.addresses, limits, 4, 0)
    for _ in range(6):
        native.control()
        cuda_on_cpu.module.control_rows(n, theirs.addresses, limits, 4, 0)
        for f in fields(RowState):
            assert same(getattr(ours, f.name), getattr(theirs, f.name))
    assert n == 1 or len(ours.status.unique()) >= 3


class Rows:
    """A step of random rows by ``method``: what the native kernels make of it, and those of ``cuda_on_cpu``.

    Args:
        special: one number in six is a zero, subnormal, one, huge, infinite or NaN.
    """

    def __init__(self, method: str, shape: tuple[int, int], dtype: torch.dtype, special: bool = False) -> None:
        tableau = lookup(method)
        assert isinstance(tableau, ButcherTableau)
        self.tableau, self.shape, self.special = tableau, shape, special
        self.y, *self.k = (self.random().to(dtype) for _ in range(tableau.stages + 1))
        self.dt = 0.1 * torch.randn(shape[0], dtype=torch.float64)
        self.x = torch.rand(shape[0], dtype=torch.float64)
        self.rtol, self.atol = (torch.rand(shape, dtype=dtype).mul(1e-3) for _ in range(2))
        if special:
            self.rtol[:1] = self.atol[:1] = 0.0
        self.write = not tableau.last_stage_is_solution
        self.y1 = self.random().to(dtype)

    def random(self) -> Tensor:
        x = torch.randn(self.shape, dtype=torch.float64)
        chosen = SPECIAL[torch.randint(len(SPECIAL), self.shape)]
        return torch.where(torch.rand(self.shape) < 1 / 6, chosen, x) if self.special else x

    def native(self, tensors: bool) -> tuple[Tensor, Tensor, Tensor]:
        """New state, error norms, dense output; tolerances per element or one for all."""
        y1, err, between = self.y1.clone(), torch.empty_like(self.dt), torch.empty_like(self.y)
        a = self.tableau
        known = _native.Tableau(a.nodes, a.matrix, a.weights, a.error_weights, a.mid_weights)
        step = _native.Step(self.y.element_size(), *self.shape, known, 1)
        if tensors:
            step.tolerance_arrays(self.rtol.data_ptr(), self.atol.data_ptr())
        else:
            step.tolerance(1e-3, 1e-4)
        step.begin(self.y.data_ptr())
        for j, k in enumerate(self.k[:-1]):
            step.slope(j, k.data_ptr())
        step.finish_rows(self.dt.data_ptr(), self.k[-1].data_ptr(), y1.data_ptr(), self.write, err.data_ptr())
        step.interpolate_rows(self.x.data_ptr(), self.dt.data_ptr(), y1.data_ptr(), between.data_ptr())
        return y1, err, between

    def cuda(self, kernels: CudaOnCpu, tensors: bool, earlier: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The same; ``earlier`` are norms of another part of the state."""
        y1, between = self.y1.clone(), torch.empty_like(self.y)
        err = torch.empty_like(self.dt) if earlier is None else earlier.clone()
        size, slopes = (self.y.element_size(), *self.shape), [k.data_ptr() for k in self.k]
        addresses = (self.rtol.data_ptr(), self.atol.data_ptr())
        tolerance = (0.0, 0.0, *addresses) if tensors else (1e-3, 1e-4, 0, 0)
        weights = self.tableau.weights if self.write else []
        ends = self.y.data_ptr(), y1.data_ptr()
        kernels.module.finish_rows(
            *size, slopes, weights, self.tableau.error_weights, self.dt.data_ptr(), *ends, *tolerance,
            err.data_ptr(), earlier is not None, 0,
        )  # fmt: skip
        kernels.module.interpolate_rows(
            *size, slopes, self.tableau.mid_weights, self.x.data_ptr(), self.dt.data_ptr(), *ends, between.data_ptr(), 0
        )
        return y1, err, between

    def row(self, i: int) -> Rows:
        """Row ``i`` alone."""
        alone = Rows("dopri5", (1, self.shape[1]), self.y.dtype)
        alone.tableau, alone.write = self.tableau, self.write
        for name in ("y", "y1", "dt", "x", "rtol", "atol"):
            setattr(alone, name, getattr(self, name)[i : i + 1].clone())
        alone.k = [k[i : i + 1].clone() for k in self.k]
        return alone


@each_order
@each_kind
@each_shape
@each_method
def test_a_step_of_rows_has_the_bits_of_the_native_one_in_any_order(
    cuda_on_cpu: CudaOnCpu, method: str, shape: tuple[int, int], special: bool, order: str, dtype: torch.dtype
) -> None:
    cuda_on_cpu.order(order)
    rows = Rows(method, shape, dtype, special)
    for tensors in (False, True):
        y1, err, between = rows.native(tensors)
        found = rows.cuda(cuda_on_cpu, tensors)
        assert same(found[0], y1) and same(found[2], between)
        if shape[1] <= 256:
            assert same(found[1], err)
        else:  # the squares are added in another order, in float64
            torch.testing.assert_close(found[1], err, rtol=1e-14, atol=0, equal_nan=True)


@each_kind
@each_method
def test_the_norm_is_that_of_the_reference(cuda_on_cpu: CudaOnCpu, method: str, special: bool) -> None:
    for shape in ((33, 17), (1, 1), (4, 1000)):
        rows = Rows(method, shape, torch.float64, special)
        y1 = stage(rows.y, rows.dt, rows.k, rows.tableau.weights) if rows.write else rows.y1
        ratio = scaled_error(rows.y, y1, rows.dt, rows.k, rows.tableau.error_weights, rows.rtol, rows.atol)
        found = rows.cuda(cuda_on_cpu, True)
        torch.testing.assert_close(found[0], y1, rtol=1e-13, atol=1e-13, equal_nan=True)
        torch.testing.assert_close(found[1], rms_rows(ratio), rtol=1e-12, atol=0, equal_nan=True)


@each_shape
def test_a_row_does_not_depend_on_its_batch(cuda_on_cpu: CudaOnCpu, shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows = Rows("dopri8", shape, dtype)
    together = rows.cuda(cuda_on_cpu, True)
    for i in range(min(shape[0], 20)):
        for a, b in zip(together, rows.row(i).cuda(cuda_on_cpu, True), strict=True):
            assert torch.equal(a[i : i + 1], b)


def test_the_largest_norm_of_several_parts_is_kept_and_so_is_nan(cuda_on_cpu: CudaOnCpu) -> None:
    rows = Rows("dopri5", (6, 3), torch.float64)
    err = rows.cuda(cuda_on_cpu, False)[1]
    earlier = torch.stack([err[0] + 1, err[1] / 2, err[2], err[3] * 0, err[4] * math.nan, err[5] * math.inf])
    rows.k[0][0, 0] = math.nan
    found = rows.cuda(cuda_on_cpu, False, earlier)[1]
    assert found[[0, 4]].isnan().all()
    assert found[[1, 2, 3, 5]].tolist() == [*err[1:4].tolist(), math.inf]


def test_an_error_of_exactly_the_tolerance_has_a_norm_of_exactly_one(
    cuda_on_cpu: CudaOnCpu, dtype: torch.dtype
) -> None:
    for columns in (1, 3, 16, 250, 1000):
        rows = Rows("dopri5", (2, columns), dtype)
        for k in rows.k[1:]:
            k.zero_()
        rows.k[0].fill_(1.0)
        rows.dt.fill_(0.5)
        rows.rtol.zero_()
        rows.atol.fill_(0.5 * abs(rows.tableau.error_weights[0]))
        assert rows.cuda(cuda_on_cpu, True)[1].tolist() == [1.0, 1.0]


def test_a_missing_barrier_is_noticed(cuda_on_cpu: CudaOnCpu) -> None:
    rows = Rows("dopri5", (3, 1000), torch.float64)
    expected = rows.cuda(cuda_on_cpu, False)[1]
    cuda_on_cpu.barriers(False)
    try:
        cuda_on_cpu.order("forwards")
        assert not torch.equal(rows.cuda(cuda_on_cpu, False)[1], expected)
    finally:
        cuda_on_cpu.barriers(True)


def test_a_barrier_that_some_threads_never_reach_fails_the_launch(tmp_path: Path) -> None:
    source, program = tmp_path / "half.cpp", tmp_path / "half"
    source.write_text("""#include "launch.h"
void half_wait() { if (threadIdx.x < 32) __syncthreads(); }
int main() {
  FASTODE_LAUNCH(half_wait, 1, 64, nullptr);
  return cudaGetLastError() == cudaErrorLaunchFailure ? 0 : 1;
}""")
    includes = [f"-I{path}" for path in (ROOT / "csrc/cuda", Path(__file__).parent / "cuda_on_cpu")]
    subprocess.run([compiler(), "-std=c++20", *includes, str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)]).returncode == 0


@pytest.mark.slow
def test_nothing_is_read_or_written_out_of_bounds_or_undefined() -> None:
    names = ("libasan.so", "libubsan.so")
    found = [
        subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in names
    ]
    if not all(os.path.isabs(path) for path in found):
        pytest.skip("the compiler has no sanitizers")
    flags = "-g -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all"
    # Python and torch keep memory until exit, so leaks are not looked for; alloc_dealloc_mismatch is torch's
    asan = "detect_leaks=0:alloc_dealloc_mismatch=0"
    environment = {**os.environ, "CXXFLAGS": flags, "LD_PRELOAD": ":".join(found), "ASAN_OPTIONS": asan}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", __file__]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_every_kernel_compiles_without_spilling_registers(source: Path, architecture: str, tmp_path: Path) -> None:
    command = ["nvcc", "-std=c++20", f"-arch={architecture}", "-cubin", "-Xptxas", "-v", f"-I{ROOT / 'csrc/include'}"]
    done = subprocess.run([*command, str(source), "-o", str(tmp_path / "out.cubin")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    registers = [int(r) for r in re.findall(r"Used (\d+) registers", done.stderr)]
    # kernels for each dtype or task; functions that are not inlined have a line of spills too
    assert len(registers) == {"control.cu": 2, "finish.cu": 4, "interpolate.cu": 2}[source.name]
    assert all(s == ("0", "0") for s in spills)
    assert max(registers) <= 64
