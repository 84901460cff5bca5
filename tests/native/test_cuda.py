from __future__ import annotations

import pytest

cuda = pytest.importorskip("fastode._native_cuda", reason="the CUDA module is not built")
no_driver = pytest.mark.skipif(cuda.device_count() > 0, reason="this machine has a GPU")
LIMITS = [5.0, 0.9, 0.2, 10.0, 0.0, 1e9, 0.2, 0.0, 0.0]


@no_driver
def test_without_a_driver_the_module_imports_and_counts_no_devices():
    assert cuda.device_count() == 0
    assert cuda.driver_status()


@no_driver
def test_without_a_driver_a_launch_says_so_and_what_to_do():
    with pytest.raises(RuntimeError, match=r"control_rows: .*CUDA error \d+.*no usable GPU driver"):
        cuda.control_rows(1, [4096] * 14 + [0], LIMITS, 100, 0)
    with pytest.raises(RuntimeError, match=r"start_rows: .*CUDA error \d+.*no usable GPU driver"):
        cuda.start_rows(1, [4096] * 14 + [0], LIMITS, 100, 0)
    with pytest.raises(RuntimeError, match=r"interpolate_rows: .*CUDA error \d+.*no usable GPU driver"):
        cuda.interpolate_rows(4, 1, 1, [4096], [0.5], *[4096] * 5, 0)


def test_nothing_to_do_launches_nothing():
    cuda.control_rows(0, [0] * 15, LIMITS, 100, 0)
    cuda.start_rows(0, [0] * 15, LIMITS, 100, 0)
    cuda.interpolate_rows(8, 0, 3, [0], [0.5], *[0] * 5, 0)


def test_addresses_and_sizes_are_checked_before_the_launch():
    with pytest.raises(ValueError, match="`err` is a null pointer for 2 elements"):
        cuda.control_rows(2, [*[4096] * 5, 0, *[4096] * 8, 0], LIMITS, 100, 0)
    with pytest.raises(ValueError, match="`arrays` has 3 entries"):
        cuda.control_rows(2, [4096] * 3, LIMITS, 100, 0)
    with pytest.raises(ValueError, match="`limits` has 1 entries"):
        cuda.control_rows(2, [4096] * 14 + [0], [0.9], 100, 0)
    with pytest.raises(ValueError, match="`itemsize` is 2"):
        cuda.interpolate_rows(2, 1, 1, [4096], [0.5], *[4096] * 5, 0)
    with pytest.raises(ValueError, match="`slopes` has 2 entries and `mid` 1"):
        cuda.interpolate_rows(4, 1, 1, [4096, 4096], [0.5], *[4096] * 5, 0)
