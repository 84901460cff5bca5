"""The emulator finds what a kernel must not do, and says where."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from . import kernels
from .emulator import EmulationFault, emulate, emulated_gpu, emulated_launch
from .ptx import kernel_text

X = torch.arange(256, dtype=torch.int32)


def test_a_store_beyond_the_end_is_a_fault_with_its_line() -> None:
    x, out = torch.randn(100), torch.zeros(100)
    with pytest.raises(
        EmulationFault, match=r"store out of bounds.*byte 400 of argument 1 .*400 bytes, line \d+: .*st\.global"
    ):
        emulated_launch(kernels.unmasked_copy, (1,), x, out, 100, BLOCK=128)


def test_a_store_beyond_a_view_is_a_fault_although_its_storage_goes_on() -> None:
    x, out = torch.randn(100), torch.zeros(400)
    with pytest.raises(EmulationFault, match="out of bounds"):
        emulated_launch(kernels.unmasked_copy, (1,), x, out[:100], 100, BLOCK=128)


def test_an_element_that_is_not_written_stays_nan() -> None:
    x, out = torch.randn(100), torch.full((100,), float("nan"))
    emulated_launch(kernels.copy_but_last, (1,), x, out, 100, BLOCK=128)
    assert out.isnan().nonzero().tolist() == [[99]]


def test_an_access_to_no_tensor_is_a_fault() -> None:
    with pytest.raises(EmulationFault, match="near no memory that was passed"):
        emulate(kernel_text("ld.global.b32 %r2, [%rd2];"), (1,), (None, X.clone()))


def test_a_vector_access_that_is_not_aligned_is_a_fault() -> None:
    text = kernel_text("add.u64 %rd3, %rd2, 4; ld.global.v2.b32 {%r2, %r3}, [%rd3];")
    with pytest.raises(EmulationFault, match=r"misaligned access to 8 bytes at byte 4 of argument 0"):
        emulate(text, (1,), (X, X.clone()))


def test_a_load_that_is_too_narrow_for_its_alignment_is_none() -> None:
    text = kernel_text("ld.global.v2.b32 {%r2, %r3}, [%rd2+8]; st.global.b32 [%rd4], %r3;")
    out = torch.zeros(256, dtype=torch.int32)
    emulate(text, (1,), (X, out))
    assert (out[:32] == 3).all()


def test_shared_memory_that_nobody_wrote_is_nan() -> None:
    text = kernel_text("mov.u32 %r2, buffer; ld.shared.f32 %f1, [%r2]; st.global.f32 [%rd4], %f1;", shared=16)
    out = torch.zeros(32)
    emulate(text, (1,), (X, out))
    assert out.isnan().all()


def test_a_load_beyond_shared_memory_is_a_fault() -> None:
    text = kernel_text("mov.u32 %r2, buffer; ld.shared.f32 %f1, [%r2+16];", shared=16)
    with pytest.raises(EmulationFault, match=r"byte 16 of shared memory of the block, which has 16 bytes"):
        emulate(text, (1,), (X, X.clone()))


def test_threads_at_different_barriers_are_a_fault() -> None:
    text = kernel_text(
        "setp.lt.u32 %p1, %r1, 16; @%p1 bra LEFT; bar.sync 0; bra.uni DONE; LEFT: bar.sync 0; DONE: mov.u32 %r2, 0;"
    )
    with pytest.raises(EmulationFault, match=r"wait at different barriers, line \d+: bar.sync 0; line \d+: bar.sync 0"):
        emulate(text, (1,), (X, X.clone()))


def test_threads_that_left_do_not_hold_up_a_barrier() -> None:
    text = kernel_text("setp.lt.u32 %p1, %r1, 16; @%p1 ret; bar.sync 0; st.global.b32 [%rd4], %r1;")
    out = torch.zeros(32, dtype=torch.int32)
    emulate(text, (1,), (X, out))
    assert out.tolist() == [0] * 16 + list(range(16, 32))


def test_a_shuffle_that_half_a_warp_misses_is_a_fault() -> None:
    text = kernel_text(
        "setp.lt.u32 %p1, %r1, 16; @%p1 bra LEFT; shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; bar.sync 0; bra.uni DONE;"
        "LEFT: bar.sync 0; DONE: mov.u32 %r3, 0;"
    )
    with pytest.raises(EmulationFault, match=r"some lanes of a warp never arrive.*shfl\.sync"):
        emulate(text, (1,), (X, X.clone()))


def test_an_endless_loop_is_a_fault() -> None:
    x, count = torch.full((128,), float("inf")), torch.zeros(1, dtype=torch.int32)
    with emulated_gpu(80, most_instructions=5000), pytest.raises(EmulationFault, match="does not end; it is at line"):
        kernels.halvings[(1,)](x, count, 128, 1e-3, BLOCK=128)


def test_a_trap_is_a_fault() -> None:
    with pytest.raises(EmulationFault, match=r"stops itself, line \d+: @%p1 trap"):
        emulate(kernel_text("setp.eq.u32 %p1, %r1, 3; @%p1 trap;"), (1,), (X, X.clone()))


def test_an_unknown_instruction_is_refused_with_its_line() -> None:
    with pytest.raises(NotImplementedError, match=r"line \d+: dp4a\.u32\.u32 %r2, %r1, %r1, %r1"):
        emulate(kernel_text("dp4a.u32.u32 %r2, %r1, %r1, %r1;"), (1,), (X, X.clone()))


def test_an_asynchronous_copy_has_not_arrived_before_it_is_waited_for() -> None:
    copy = "mov.u32 %r2, buffer; cp.async.ca.shared.global [%r2], [%rd2], 4; cp.async.commit_group;"
    read = "ld.shared.b32 %r3, [%r2]; st.global.b32 [%rd4], %r3;"
    x, early, late = X + 7, torch.zeros(32, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    emulate(kernel_text(copy + read, shared=16), (1,), (x, early))
    emulate(kernel_text(copy + "cp.async.wait_group 0;" + read, shared=16), (1,), (x, late))
    assert (early == -1).all()
    assert (late == 7).all()


@pytest.mark.parametrize("num_warps", [1, 4])
def test_memory_read_without_a_barrier_is_a_race(num_warps: int) -> None:
    x, out, scratch = torch.randn(256), torch.zeros(256), torch.zeros(256)
    options = {"races": True, "SIZE": 256, "num_warps": num_warps}
    emulated_launch(kernels.scratch_reversal, (1,), x, scratch, out, BARRIER=True, **options)
    assert torch.equal(out, x.flip(0))
    scratch.zero_()
    with pytest.raises(EmulationFault, match=r"a race: thread \d+ reads what thread \d+ wrote, no barrier between"):
        emulated_launch(kernels.scratch_reversal, (1,), x, scratch, out, BARRIER=False, **options)


@pytest.mark.parametrize(
    ("order", "does"), [("forward", "writes what another block reads"), ("reverse", "reads what another block wrote")]
)
def test_blocks_that_work_on_each_others_elements_are_a_race(order: str, does: str) -> None:
    x, out = torch.randn(256), torch.zeros(256)
    emulated_launch(kernels.running_mean, (2,), x, out, 256, order=order, races=True, BLOCK=128)
    torch.testing.assert_close(out[:-1], (x[:-1] + x[1:]) / 2)
    with pytest.raises(EmulationFault, match=f"a race: a block {does}"):
        emulated_launch(kernels.running_mean, (2,), x, x, 256, order=order, races=True, BLOCK=128)


def test_one_address_for_different_values_is_a_race_and_for_one_value_is_none() -> None:
    out = torch.zeros(256, dtype=torch.int32)
    first = "ld.param.u64 %rd5, [out]; st.global.b32 [%rd5], {};"
    emulate(kernel_text(first.format("7")), (3,), (X, out), races=True)
    assert out[0] == 7
    with pytest.raises(EmulationFault, match="two threads store different values to one address at once"):
        emulate(kernel_text(first.format("%r1")), (1,), (X, out), races=True)


def test_watching_for_races_changes_no_statistics() -> None:
    x, out = torch.randn(256), torch.zeros(256)
    plain = emulated_launch(kernels.square_plus_one, (2,), x, out, 256, BLOCK=128)
    watched = emulated_launch(kernels.square_plus_one, (2,), x, out, 256, races=True, BLOCK=128)
    assert plain == watched


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((X, X), ValueError, "2 arguments for kernel `test`, whose parameters are u64, u64, u32"),
        ((X, X, 1, 1), ValueError, "4 arguments for kernel `test`"),
        ((X, 2.5, 1), TypeError, r"argument 1 is 2.5; the kernel expects `.u64`"),
        ((X, X, 2.5), TypeError, r"argument 2 is 2.5; the kernel expects `.u32`"),
        ((X, X, X), TypeError, r"argument 2 is Tensor; the kernel expects a scalar `.u32`"),
    ],
    ids=["too few", "too many", "a float for a pointer", "a float for an integer", "a tensor for a scalar"],
)
def test_arguments_that_do_not_fit_are_refused(args: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        emulate(kernel_text("mov.u32 %r2, 0;", scalars=1), (1,), args)


def test_wrong_ways_to_launch_are_refused() -> None:
    text = kernel_text("mov.u32 %r2, 0;")
    with pytest.raises(ValueError, match=r"`order='sideways'` is not known. Known: 'forward', 'reverse'"):
        emulate(text, (1,), (X, X), order="sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`grid=\(\)` must be one to three"):
        emulate(text, (), (X, X))
    with pytest.raises(ValueError, match="`num_warps=2` for a kernel that was compiled for 1 warps"):
        emulate(text, (1,), (X, X), num_warps=2)
    with pytest.raises(ValueError, match="`target='gfx942'` has no PTX"), emulated_gpu("gfx942"):  # type: ignore[arg-type]
        pass
