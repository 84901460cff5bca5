"""The CUDA kernels without a GPU: their source run on the CPU in several thread orders, and what nvcc says of it."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from fastode.controller import Controller
from fastode.kernels.native.control import RowControl, limits_of
from fastode.kernels.row_state import RowState

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "csrc/cuda" / name for name in ("control.cu", "interpolate.cu")]
ORDERS = {"forwards": 0, "backwards": 1, "shuffled": 7}

pytestmark = pytest.mark.skipif(not SOURCES[0].exists(), reason="the CUDA sources are not here")


class Limits(ctypes.Structure):
    """RowLimits of csrc/include/fastode/controller.h."""

    _fields_ = [("numbers", ctypes.c_double * 9), ("max_steps", ctypes.c_int64)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    target = tmp_path_factory.mktemp("cuda") / "kernels.so"
    includes = [f"-I{ROOT / 'csrc/include'}", f"-I{ROOT / 'csrc/cuda'}", f"-I{Path(__file__).parent / 'cuda_on_cpu'}"]
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command = [compiler, *flags, "-shared", "-fPIC", *includes, "-x", "c++", *map(str, SOURCES), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


def random_rows(n: int) -> RowState:
    generator = torch.Generator().manual_seed(n)

    def uniform(low: float, high: float) -> torch.Tensor:
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


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("n", [1, 127, 128, 1000])
def test_the_controller_has_the_bits_of_the_native_one_in_any_order(library: ctypes.CDLL, n: int, order: int) -> None:
    library.cuda_on_cpu_order(order)
    controller = Controller(order=5, filter=(0.58, -0.21, 0.1))
    ours, theirs = random_rows(n), random_rows(n)
    limits = Limits((ctypes.c_double * 9)(*limits_of(controller)), 4)
    arrays = (ctypes.c_void_p * len(theirs.addresses))(*theirs.addresses)
    rows = ctypes.c_int64(n)
    native = RowControl(ours, controller, 4)
    native.start()
    assert library.fastode_start_rows(rows, ctypes.byref(arrays), ctypes.byref(limits), None) == 0
    for _ in range(6):
        native.control()
        assert library.fastode_control_rows(rows, ctypes.byref(arrays), ctypes.byref(limits), None) == 0
        for f in fields(RowState):
            a, b = getattr(ours, f.name), getattr(theirs, f.name)
            assert torch.equal(
                a.nan_to_num() if a.is_floating_point() else a, b.nan_to_num() if b.is_floating_point() else b
            )
    assert n == 1 or len(ours.status.unique()) >= 3


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
    assert len(registers) == 2  # kernels; functions that are not inlined have a line of spills too
    assert all(s == ("0", "0") for s in spills)
    assert max(registers) <= 64
