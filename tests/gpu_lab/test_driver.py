"""The stand-in driver compiles for any target, one after another, as a launch would."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from .driver import stand_in  # noqa: E402
from .emulator import emulated_gpu  # noqa: E402
from .kernels import quotient, square_plus_one  # noqa: E402


def _compiled(target: int | str, n: int = 1000, x: torch.Tensor | None = None):
    x = torch.zeros(1024) if x is None else x
    with stand_in(target):
        return quotient.warmup(x, x, x, n, BLOCK=256, grid=(4,))


def test_a_kernel_compiled_for_one_target_is_compiled_anew_for_the_next() -> None:
    for target in (80, 90, 100, "gfx942", 80):
        assert _compiled(target).metadata.target.arch == target
    assert ".target sm_90a" in _compiled(90).asm["ptx"]
    assert ".target sm_80" in _compiled(80).asm["ptx"]
    assert ".amdgcn_target" in _compiled("gfx942").asm["amdgcn"]
    assert _compiled("gfx942").metadata.warp_size == 64


def test_what_was_compiled_for_a_target_is_kept() -> None:
    assert _compiled(80) is _compiled(80)


@pytest.mark.parametrize(
    ("n", "type_", "divisible"), [(1, "constexpr", False), (1008, "i32", True), (1001, "i32", False)]
)
def test_scalars_are_specialised_by_value(n: int, type_: str, divisible: bool) -> None:
    source = _compiled(80, n).src
    assert source.signature["n"] == type_
    assert (["tt.divisibility", 16] in source.attrs.get((3,), [])) is divisible


def test_pointers_are_specialised_by_alignment() -> None:
    assert ["tt.divisibility", 16] in _compiled(80).src.attrs[(0,)]
    assert ["tt.divisibility", 16] not in _compiled(80, x=torch.zeros(1025)[1:]).src.attrs.get((0,), [])


def test_types_come_from_the_tensors() -> None:
    assert _compiled(80, x=torch.zeros(4, dtype=torch.float64)).src.signature["x_ptr"] == "*fp64"
    assert _compiled(80, x=torch.zeros(4, dtype=torch.bfloat16)).src.signature["x_ptr"] == "*bf16"


def test_the_driver_before_is_restored_even_after_an_error() -> None:
    before = triton.runtime.driver._active
    with stand_in(80) as outer:
        with pytest.raises(KeyError, match="no such thing"), stand_in(90):
            raise KeyError("no such thing")
        assert triton.runtime.driver.active is outer
    assert triton.runtime.driver._active is before


def test_a_launch_without_a_device_is_refused() -> None:
    x = torch.zeros(16)
    with stand_in(80), pytest.raises(RuntimeError, match=r"'square_plus_one' cannot be launched.*warmup"):
        square_plus_one[(1,)](x, x, 16, BLOCK=16)


def test_a_kernel_loaded_for_emulation_is_not_launched_by_another_driver() -> None:
    x = torch.zeros(16)
    with emulated_gpu(80):
        kept = square_plus_one[(1,)](x, x, 16, BLOCK=16)
    with stand_in(90), pytest.raises(RuntimeError, match="no longer the active one"):
        kept[(1, 1, 1)](x, x, 16, 16)


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"`target=75` is not known. Known: 80, 90, 100, 'gfx942'"), stand_in(75):
        pass
