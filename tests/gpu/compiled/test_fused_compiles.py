"""Fused kernels compile for GPUs of several makers, without spilled registers and with constants of their own type."""

from __future__ import annotations

import pytest
import torch

from .compiling import ANGLES, FIELDS, KERNELS, LARGER, reports

#: a compilation takes seconds: the other targets in the slow tests
TARGETS = [80, *(pytest.param(target, marks=pytest.mark.slow) for target in (90, 100, "gfx942"))]


#: bytes of registers that are spilled, on devices where Triton multiplies float64 without tensor cores
SPILLED = {
    (100, torch.float64, "flow", "evaluate"): 96,
    ("gfx942", torch.float64, "flow", "solve_rows"): 108,
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile_without_spills_and_in_their_own_precision(
    target: int | str, field: str, dtype: torch.dtype, kernel: str
) -> None:
    for name, found in reports(field, dtype, target, kernel).items():
        allowed = SPILLED.get((target, dtype, field, name), 0)
        assert found.spill_stores <= allowed, f"{name}: {found}"
        if dtype == torch.float64:
            assert found.float32_constants_in_float64() == [], name
        uses_tensor_cores = found.instructions["HMMA"] > 0
        assert not uses_tensor_cores, f"{name}: tf32 where float32 was asked for"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_angles_and_rounding_are_in_their_own_precision(
    monkeypatch: pytest.MonkeyPatch, target: int | str, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(FIELDS, "angles_and_rounding", ANGLES["angles_and_rounding"])
    found = reports("angles_and_rounding", dtype, target, "evaluate")["evaluate"]
    assert not found.spills
    if dtype == torch.float64:
        assert found.float32_constants_in_float64() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "dtype", "spilled"),
    [
        ("concatsquash_flow", torch.float32, 0),
        ("concatsquash_flow", torch.float64, 0),
        ("hutchinsons_flow", torch.float64, 0),
        ("network_of_128", torch.float32, 0),
        ("network_of_128", torch.float64, 0),
        ("flow_of_128", torch.float32, 24),
        ("network_of_256", torch.float32, 64),
    ],
    ids=str,
)
def test_larger_fields_spill_little(
    monkeypatch: pytest.MonkeyPatch, field: str, dtype: torch.dtype, spilled: int
) -> None:
    monkeypatch.setitem(FIELDS, field, LARGER[field])
    assert reports(field, dtype, 80, "solve_rows")["solve_rows"].spill_stores <= spilled


@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_products_are_on_tensor_cores_where_that_is_asked_for(precision: str) -> None:
    found = reports("flow", torch.float32, 80, "attempt_step", precision)["attempt_step"]
    assert found.instructions["HMMA"] > 0
    assert not found.spills


def test_the_field_is_in_a_kernel_once_whatever_the_number_of_stages() -> None:
    found = reports("network", torch.float32, 80, "solve_rows")
    assert found["solve_rows"].ttir.count("tt.dot ") == found["start"].ttir.count("tt.dot ") == 4
