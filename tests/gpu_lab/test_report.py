"""Reports say what the compiler made of a kernel, and show what went wrong."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from . import kernels
from .report import compile_for

X = torch.zeros(4096)
TARGETS = (80, 90, 100, "gfx942")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_an_aligned_kernel_uses_registers_and_the_widest_accesses(target: int | str, dtype: torch.dtype) -> None:
    x = X.to(dtype)
    report = compile_for(target, kernels.quotient, (x, x, x, 4096), (4,), BLOCK=1024, num_warps=4)
    assert 8 <= report.registers <= 128
    assert not report.spills
    assert report.warps == 4
    assert (report.widest("load"), report.widest("store")) == (128, 128)


@pytest.mark.parametrize("target", TARGETS)
def test_a_pointer_that_is_not_aligned_narrows_the_accesses(target: int | str) -> None:
    report = compile_for(target, kernels.quotient, (X[1:], X[1:], X[1:], 4095), (4,), BLOCK=1024)
    assert report.widest("load") < 128
    assert report.widest("store") < 128


def test_instructions_are_counted_by_width() -> None:
    report = compile_for(80, kernels.square_plus_one, (X, X, 4096), (4,), BLOCK=1024, num_warps=4)
    # 1024 elements over 128 threads are two vectors of four for each
    assert (report.instructions["LDG.128"], report.instructions["STG.128"], report.instructions["FFMA"]) == (2, 2, 8)
    assert report.global_widths == {("load", 128): 2, ("store", 128): 2}
    assert "FFMA 8" in str(report)


@pytest.mark.parametrize(
    ("dtype", "precision", "uses", "spares"),
    [
        (torch.float32, "ieee", "FFMA", "HMMA"),
        (torch.float32, "tf32", "HMMA", "FFMA"),
        (torch.float32, "tf32x3", "HMMA", "FFMA"),
        (torch.float64, "ieee", "DMMA", "DFMA"),
    ],
    ids=["ieee", "tf32", "tf32x3", "float64"],
)
def test_the_units_that_multiply_matrices_show(dtype: torch.dtype, precision: str, uses: str, spares: str) -> None:
    a = X[:1024].to(dtype)
    report = compile_for(80, kernels.product, (a, a, a, 32), (1,), SIZE=32, PRECISION=precision)
    assert report.instructions[uses] > 0
    assert report.instructions[spares] == 0
    assert report.shared > 0
    assert report.instructions["BAR"] > 0


def test_spills_show_as_bytes_and_as_instructions() -> None:
    x = torch.zeros(128, 64)
    roomy = compile_for(80, kernels.many_at_once, (x, x), (1,), BLOCK=128, COUNT=64, num_warps=4)
    cramped = compile_for(80, kernels.many_at_once, (x, x), (1,), BLOCK=128, COUNT=64, num_warps=4, maxnreg=32)
    assert not roomy.spills
    assert roomy.instructions["STL"] == roomy.stack == 0
    assert cramped.spills
    assert cramped.registers <= 32
    assert min(cramped.spill_stores, cramped.spill_loads, cramped.stack) > 0
    assert min(cramped.instructions["STL"], cramped.instructions["LDL"]) > 0


def test_shuffles_show() -> None:
    x = torch.zeros(8, 64)
    report = compile_for(80, kernels.row_norms, (x, x, x.int(), 8, 64), (1,), ROWS=8, FEATURES=64)
    assert report.instructions["SHFL"] > 0


def test_a_float32_factor_in_a_float64_kernel_is_found() -> None:
    x = torch.zeros(128, dtype=torch.float64)
    wrong = compile_for(80, kernels.scaled, (x, x, 0.1), (1,), BLOCK=128)
    assert any("arith.extf %factor : f32 to f64" in line for line in wrong.float32_constants_in_float64())
    right = compile_for(80, kernels.scaled_in_double, (x, x, 0.1), (1,), BLOCK=128)
    assert right.float32_constants_in_float64() == []


def test_float32_literals_in_a_float64_kernel_are_found_before_and_after_folding() -> None:
    x = torch.zeros(128, dtype=torch.float64)
    lines = compile_for(80, kernels.chosen, (x, x), (1,), BLOCK=128).float32_constants_in_float64()
    assert any("1.000000e-01" in line and "f32" in line for line in lines)
    # the sum 0.0 + 0.7 was folded in float32 and then widened
    assert any("0.69999998807907104" in line and "f64" in line for line in lines)
    assert any("arith.extf" in line for line in lines)


def test_a_float32_kernel_may_have_float32_constants() -> None:
    assert compile_for(80, kernels.chosen, (X, X), (1,), BLOCK=128).float32_constants_in_float64() == []


def test_what_does_not_compile_raises() -> None:
    with pytest.raises(Exception, match=r"(?i)must be|non-scalar|>= *16|at least"):
        compile_for(80, kernels.product, (X, X, X, 8), (1,), SIZE=8, PRECISION="ieee")
