from __future__ import annotations

import pytest

cuda = pytest.importorskip("fastode._native_cuda", reason="the CUDA module is not built")
no_driver = pytest.mark.skipif(not cuda.device_status(), reason="this machine has a usable GPU")
LIMITS = [5.0, 0.9, 0.2, 10.0, 0.0, 1e9, 0.2, 0.0, 0.0]


def finish(itemsize, rows, cols, slopes, state, error, address, arrays=(0, 0)):
    """``finish_rows`` with ``dt``, ``y``, ``y1`` and ``err`` all at one address."""
    weights = slopes, state, error
    cuda.finish_rows(itemsize, rows, cols, *weights, *[address] * 3, 1e-3, 1e-3, *arrays, address, False, 0)


@no_driver
def test_without_a_driver_the_module_imports_and_says_why_it_cannot_run():
    assert "no usable GPU driver" in cuda.device_status()


@no_driver
def test_without_a_driver_a_launch_says_so_and_what_to_do():
    with pytest.raises(RuntimeError, match=r"control_rows: .*CUDA error \d+.*no usable GPU driver"):
        cuda.control_rows(1, [4096] * 14 + [0], LIMITS, 100, 0)
    with pytest.raises(RuntimeError, match=r"start_rows: .*CUDA error \d+.*no usable GPU driver"):
        cuda.start_rows(1, [4096] * 14 + [0], LIMITS, 100, 0)
    with pytest.raises(RuntimeError, match=r"interpolate_rows: .*CUDA error \d+.*no usable GPU driver"):
        cuda.interpolate_rows(4, 1, 1, [4096], [0.5], *[4096] * 5, 0)
    with pytest.raises(RuntimeError, match=r"finish_rows: .*CUDA error \d+.*no usable GPU driver"):
        finish(4, 1, 1, [4096], [], [0.5], 4096)


def test_nothing_to_do_launches_nothing():
    cuda.control_rows(0, [0] * 15, LIMITS, 100, 0)
    cuda.start_rows(0, [0] * 15, LIMITS, 100, 0)
    cuda.interpolate_rows(8, 0, 3, [0], [0.5], *[0] * 5, 0)
    finish(8, 0, 3, [0], [0.5], [0.5], 0)


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
    with pytest.raises(ValueError, match="`slopes` has 2 entries, `error` 1 and `state` 0"):
        finish(4, 1, 1, [4096, 4096], [], [0.5], 4096)
    with pytest.raises(ValueError, match="`slopes` has 1 entries, `error` 1 and `state` 2"):
        finish(4, 1, 1, [4096], [0.5, 0.5], [0.5], 4096)
    with pytest.raises(ValueError, match="`slopes` has 33 entries"):
        finish(4, 1, 1, [4096] * 33, [], [0.5] * 33, 4096)
    with pytest.raises(ValueError, match="`slopes` is a null pointer"):
        finish(4, 1, 1, [0], [], [0.5], 4096)
    with pytest.raises(ValueError, match="`atol_array` is a null pointer"):
        finish(8, 1, 1, [4096], [], [0.5], 4096, arrays=(4096, 0))
    with pytest.raises(ValueError, match="is not aligned"):
        finish(8, 1, 1, [4096], [], [0.5], 4100)
