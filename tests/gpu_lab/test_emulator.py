"""What the emulator computes from compiled kernels is what torch computes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from . import kernels
from .driver import stand_in
from .emulator import emulate, emulated_gpu, emulated_launch

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def _unwritten(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def _fused(x: torch.Tensor) -> torch.Tensor:
    """``x^2 + 1`` with one rounding, as one instruction computes it: products of float32 are exact in float64."""
    return (x.double() ** 2 + 1).float()


@DTYPES
@pytest.mark.parametrize("n", [1, 13, 256, 331])
def test_a_masked_elementwise_kernel(dtype: torch.dtype, n: int) -> None:
    x, y, out = torch.randn(n, dtype=dtype), torch.randn(n, dtype=dtype), _unwritten(n, dtype=dtype)
    emulated_launch(kernels.quotient, (-(-n // 256),), x, y, out, n, BLOCK=256)
    # a product, a quotient and a sum, each rounded; the quotient in float32 is approximate in its last two bits
    bound = 4 * torch.finfo(dtype).eps * ((x * y).abs() + (x / (1 + y * y)).abs())
    assert ((out - (x * y + x / (1 + y * y))).abs() <= bound).all()


@DTYPES
def test_the_functions_of_libdevice(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-9, 9, 171, dtype=dtype), torch.tensor([0.0, 1e-8, -3e-3, 1e5, -2e4], dtype=dtype)])
    out = _unwritten(10, x.numel(), dtype=dtype)
    emulated_launch(kernels.functions, (2,), x, out, x.numel(), BLOCK=128)
    z, size = x.double(), x.double().abs()
    expected = torch.stack(
        [
            z.exp(),
            (1 + size).log(),
            z.tanh(),
            z.erf(),
            z.sin(),
            z.cos(),
            size.sqrt(),
            (1 + size).rsqrt(),
            z.sigmoid(),
            z.expm1(),
        ]
    )
    # 1 + |x| is rounded before its logarithm is taken, which costs half a unit of 1; exp in float32 multiplies its
    # argument by log2(e) first and so loses |x| half units in the last place
    loss = torch.ones_like(expected)
    if dtype == torch.float32:
        loss[0] = loss[8] = 1 + size.clamp(max=88)
    eps = torch.finfo(dtype).eps
    bound = eps * (2 * loss * expected.abs() + (torch.arange(10) == 1)[:, None])
    expected = expected.to(dtype).double()
    finite = torch.isfinite(expected)
    assert torch.equal(out[~finite].double(), expected[~finite])
    assert ((out.double() - expected).abs() <= bound + torch.finfo(dtype).tiny)[finite].all()


@DTYPES
@pytest.mark.parametrize("rows", [1, 7, 19])
def test_reductions_of_rows(dtype: torch.dtype, rows: int) -> None:
    x, norm = torch.randn(rows, 37, dtype=dtype), _unwritten(rows, dtype=dtype)
    largest = torch.full((rows,), -1, dtype=torch.int32)
    emulated_launch(kernels.row_norms, (-(-rows // 8),), x, norm, largest, rows, 37, ROWS=8, FEATURES=64)
    torch.testing.assert_close(norm, x.square().mean(1).sqrt(), rtol=8 * torch.finfo(dtype).eps, atol=0)
    assert torch.equal(largest, x.argmax(1).int())


@DTYPES
def test_a_loop_whose_length_depends_on_data(dtype: torch.dtype) -> None:
    n = 300
    x = torch.randn(n, dtype=dtype) * torch.tensor([1.0, 1e4, 1e-9]).repeat_interleave(100).to(dtype)
    expected, counts = x.clone(), torch.full((3,), -1, dtype=torch.int32)
    halved = x.clone()
    emulated_launch(kernels.halvings, (3,), halved, counts, n, 1e-3, BLOCK=128)
    for program, part in enumerate(expected.split(128)):
        count = 0
        while part.abs().max() > 1e-3:
            part *= 0.5
            count += 1
        assert counts[program] == count
    assert torch.equal(halved, expected)


@pytest.mark.parametrize(
    ("dtype", "precision", "least", "most"),
    [
        (torch.float32, "ieee", 1e-9, 1e-6),
        (torch.float32, "tf32x3", 1e-9, 1e-6),
        (torch.float32, "tf32", 1e-4, 1e-2),
        (torch.float64, "ieee", 0.0, 1e-15),
        (torch.bfloat16, "ieee", 1e-9, 1e-6),
        (torch.float16, "ieee", 1e-9, 1e-6),
    ],
    ids=["ieee", "tf32x3", "tf32", "float64", "bfloat16", "float16"],
)
def test_products_of_matrices_have_the_precision_that_was_compiled(
    dtype: torch.dtype, precision: str, least: float, most: float
) -> None:
    a, b = torch.randn(32, 96).to(dtype), torch.randn(96, 32).to(dtype)
    out = _unwritten(32, 32, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    emulated_launch(kernels.product, (1,), a, b, out, 96, SIZE=32, PRECISION=precision)
    exact = a.double() @ b.double()
    error = float((out.double() - exact).abs().max() / exact.abs().max())
    assert least <= error <= most


@pytest.mark.parametrize(
    ("dtype", "precision", "most"),
    [(torch.float32, "tf32x3", 1e-6), (torch.float64, "ieee", 1e-15), (torch.bfloat16, "ieee", 1e-6)],
    ids=["tf32x3", "float64", "bfloat16"],
)
def test_small_products_for_sm_90_are_emulated_too(dtype: torch.dtype, precision: str, most: float) -> None:
    a, b = torch.randn(32, 64).to(dtype), torch.randn(64, 32).to(dtype)
    out = _unwritten(32, 32, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    emulated_launch(kernels.product, (1,), a, b, out, 64, target=90, SIZE=32, PRECISION=precision)
    exact = a.double() @ b.double()
    assert float((out.double() - exact).abs().max() / exact.abs().max()) <= most


def test_a_product_without_a_precision_is_tf32() -> None:
    a, b, out = torch.randn(32, 32), torch.randn(32, 32), _unwritten(32, 32)
    emulated_launch(kernels.product_by_default, (1,), a, b, out, SIZE=32)
    exact = a.double() @ b.double()
    assert float((out - exact).abs().max() / exact.abs().max()) > 1e-4


def test_integers_of_64_bits_and_casts_of_bits() -> None:
    n = 200
    seeds, out = torch.randint(-(2**63), 2**63 - 1, (n,)), _unwritten(n, dtype=torch.float64)
    emulated_launch(kernels.uniforms, (2,), seeds, out, n, BLOCK=128)

    def uniform(z: int) -> float:
        word = 2**64 - 1
        z &= word
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & word
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & word
        return ((z ^ (z >> 31)) >> 12) * 2.0**-52

    assert out.tolist() == [uniform(z) for z in seeds.tolist()]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_division_of_integers_is_towards_zero(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    x = torch.cat(
        [torch.randint(limits.min, limits.max, (60,)), torch.tensor([0, 6, 7, -6, -7, limits.min, limits.max])]
    )
    x, out = x.to(dtype), torch.zeros(3, x.numel(), dtype=dtype)
    emulated_launch(kernels.digits, (1,), x, out, x.numel(), BLOCK=128)
    assert torch.equal(out[0], torch.div(x, 7, rounding_mode="trunc"))
    assert torch.equal(out[1], torch.fmod(x, 7))
    # umulhi takes its operands to be without a sign
    word = 2**limits.bits
    assert [v % word for v in out[2].tolist()] == [(v % word) ** 2 // word for v in x.tolist()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_storage_with_float32_arithmetic(dtype: torch.dtype) -> None:
    n = 391
    x, out = torch.randn(n).to(dtype), _unwritten(n, dtype=dtype)
    emulated_launch(kernels.square_plus_one, (2,), x, out, n, BLOCK=256)
    assert torch.equal(out, (x.float() ** 2 + 1).to(dtype))


@DTYPES
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_atomics_and_the_order_of_blocks(dtype: torch.dtype, order: str) -> None:
    n = 300
    bins, weights = torch.randint(0, 5, (n,), dtype=torch.int32), torch.rand(n, dtype=dtype)
    totals, counts = torch.zeros(5, dtype=dtype), torch.zeros(5, dtype=torch.int32)
    finished = torch.tensor([-1, 0, 9, 9, 9], dtype=torch.int32)
    emulated_launch(kernels.histogram, (3,), bins, weights, totals, counts, finished, n, order=order, BINS=5, BLOCK=128)
    torch.testing.assert_close(totals, torch.zeros(5, dtype=dtype).index_add(0, bins, weights), rtol=1e-5, atol=0)
    assert torch.equal(counts, torch.bincount(bins, minlength=5).int())
    # each program learns its place from an atomic, and the first one that it is
    assert finished.tolist() == ([0, 3, 0, 1, 2] if order == "forward" else [2, 3, -2, 1, 0])


def test_memory_written_by_a_block_can_be_read_behind_a_barrier() -> None:
    x, out, scratch = torch.randn(256), _unwritten(256), _unwritten(256)
    emulated_launch(kernels.scratch_reversal, (1,), x, scratch, out, SIZE=256, BARRIER=True)
    assert torch.equal(out, x.flip(0))


def test_arguments_in_tuples_and_those_specialised_to_one() -> None:
    x, y, out = torch.randn(128), torch.randn(128), _unwritten(128)
    emulated_launch(kernels.tuple_sum, (1,), (x, y), (1, 2.5), out, BLOCK=128)
    torch.testing.assert_close(out, x + 2.5 * y)


def test_strided_and_offset_views_are_where_they_are() -> None:
    whole = torch.randn(400)
    x, out = whole[3:203], torch.full((400,), float("nan"))
    emulated_launch(kernels.square_plus_one, (2,), x, out[100:300], 200, BLOCK=128)
    assert torch.equal(out[100:300], _fused(x))
    assert out[:100].isnan().all()
    assert out[300:].isnan().all()


def test_float64_scalars_arrive_whole() -> None:
    x, out = torch.ones(128, dtype=torch.float64), _unwritten(128, dtype=torch.float64)
    emulated_launch(kernels.scaled_in_double, (1,), x, out, 0.1, BLOCK=128)
    assert (out == 0.2).all()
    emulated_launch(kernels.scaled, (1,), x, out, 0.1, BLOCK=128)
    assert (out == float(torch.tensor(0.1, dtype=torch.float32))).all()


def test_a_compiled_kernel_and_its_text_are_emulated_with_parameters_alone() -> None:
    x, out = torch.randn(200), _unwritten(200)
    with stand_in(80):
        kernel = kernels.square_plus_one.warmup(x, out, 200, BLOCK=128, grid=(2,))
    emulate(kernel, (2,), (x, out, 200))
    assert torch.equal(out, _fused(x))
    out.fill_(float("nan"))
    emulate(kernel.asm["ptx"], (2,), (x, out, 200), num_warps=4)
    assert torch.equal(out, _fused(x))


def test_kept_kernels_launch_within_an_emulated_gpu_and_statistics_add_up() -> None:
    x, out = torch.randn(256), _unwritten(256)
    with emulated_gpu(80) as total:
        kept = kernels.square_plus_one[(2,)](x, out, 256, BLOCK=128)
        out.fill_(float("nan"))
        kept[(2, 1, 1)](x, out, 256, 128)
    assert torch.equal(out, _fused(x))
    assert (total.launches, total.blocks) == (2, 4)
    # one pass over memory a launch: each element is loaded once and stored once
    assert total.global_bytes_loaded == total.global_bytes_stored == 2 * 256 * 4
    assert total.instructions > 40


def test_elementwise_kernels_for_newer_targets_are_emulated_too() -> None:
    for target in (90, 100):
        x, out = torch.randn(200), _unwritten(200)
        emulated_launch(kernels.square_plus_one, (2,), x, out, 200, target=target, BLOCK=128)
        assert torch.equal(out, _fused(x))
