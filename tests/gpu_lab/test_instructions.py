"""Single instructions against their definition in the PTX ISA."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from .emulator.rounding import bfloat16_bits, fused_multiply_add, round_float32
from .ptx import WORD, doubles, words


def _float(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


VALUES = [0, 1, 0x80000000, 0xFFFFFFFF, 0x12345678, 0xDEADBEEF, 0x7FFFFFFF, 0x00010000]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("bfe.u32 %r3, %r2, 4, 8;", lambda v: v >> 4 & 255),
        ("bfe.s32 %r3, %r2, 28, 4;", lambda v: ((v >> 28) - 16 if v >> 31 else v >> 28) % WORD),
        ("bfe.u32 %r3, %r2, 0, 32;", lambda v: v),
        ("bfe.u32 %r3, %r2, 3, 0;", lambda v: 0),
        ("bfi.b32 %r3, %r2, -1, 8, 4;", lambda v: 0xFFFFF0FF | (v & 15) << 8),
        ("brev.b32 %r3, %r2;", lambda v: int(f"{v:032b}"[::-1], 2)),
        ("popc.b32 %r3, %r2;", lambda v: v.bit_count()),
        ("clz.b32 %r3, %r2;", lambda v: 32 - v.bit_length()),
        ("prmt.b32 %r3, %r2, 0xAABBCCDD, 0x7410;", lambda v: 0xAADD0000 | v & 0xFFFF),
        ("prmt.b32 %r3, %r2, 0, 0x888B;", lambda v: 255 * (v >> 31) | 0xFFFFFF00 * (v >> 7 & 1)),
        ("shf.l.wrap.b32 %r3, %r2, 0x0000000F, 4;", lambda v: 0xF0 | v >> 28),
        ("shf.r.wrap.b32 %r3, %r2, 0x0000000F, 36;", lambda v: 0xF0000000 | v >> 4),
        ("shf.r.clamp.b32 %r3, %r2, 0x0000000F, 36;", lambda v: 15),
        ("lop3.b32 %r3, %r2, 0x0F0F0F0F, 0x33333333, 0x96;", lambda v: v ^ 0x0F0F0F0F ^ 0x33333333),
        ("shl.b32 %r3, %r2, 33;", lambda v: 0),
        ("shr.u32 %r3, %r2, 33;", lambda v: 0),
        ("shr.s32 %r3, %r2, 33;", lambda v: (WORD - 1) * (v >> 31)),
        ("mul.hi.u32 %r3, %r2, %r2;", lambda v: v * v >> 32),
        ("mad.lo.s32 %r3, %r2, 3, 5;", lambda v: (3 * v + 5) % WORD),
        ("setp.gt.s32 %p1, %r2, 0; selp.b32 %r3, 7, 9, %p1;", lambda v: 7 if 0 < v < WORD // 2 else 9),
        ("setp.gt.and.u32 %p1|%p2, %r2, 5, 1; selp.b32 %r3, 7, 9, %p2;", lambda v: 9 if v > 5 else 7),
        ("min.s32 %r3, %r2, 5;", lambda v: v if v >= WORD // 2 else min(v, 5)),
        ("max.u32 %r3, %r2, 5;", lambda v: max(v, 5)),
        ("div.u32 %r3, %r2, 10;", lambda v: v // 10),
        ("rem.s32 %r3, %r2, 10;", lambda v: (v % 10 if v < WORD // 2 else -((WORD - v) % 10)) % WORD),
        ("abs.s32 %r3, %r2;", lambda v: v if v < WORD // 2 else WORD - v),
        ("not.b32 %r3, %r2;", lambda v: v ^ 0xFFFFFFFF),
        ("mov.b32 {%rs1, %rs2}, %r2; mov.b32 %r3, {%rs2, %rs1};", lambda v: v >> 16 | (v & 0xFFFF) << 16),
        ("cvt.u32.u16 %r3, %r2;", lambda v: v & 0xFFFF),
        ("cvt.s32.s8 %r3, %r2;", lambda v: ((v & 255) - 256 * (v >> 7 & 1)) % WORD),
        ("@%p3 bra OUT; mov.b32 %r3, 5; bra.uni END; OUT: mov.b32 %r3, 6; END: mov.b32 %r4, 0;", lambda v: 5),
    ],
    ids=lambda x: x.split(";")[0] if isinstance(x, str) else "",
)
def test_integers(body: str, expected) -> None:
    assert words(body, VALUES) == [expected(v) for v in VALUES]


def test_carries_run_through_words_of_32_bits() -> None:
    body = (
        "ld.global.b32 %r5, [%rd2+4]; add.cc.u32 %r6, %r2, %r2; addc.cc.u32 %r7, %r2, 0; addc.u32 %r8, 0, 0;"
        "sub.cc.u32 %r9, 0, %r2; subc.u32 %r10, 0, 0; mad.lo.cc.u32 %r11, %r2, %r2, %r2; madc.hi.u32 %r12, %r2, %r2, 0;"
    )
    total = [v * (1 + WORD) + v for v in VALUES]
    assert words(body + "mov.u32 %r3, %r7;", VALUES) == [t >> 32 & (WORD - 1) for t in total]
    assert words(body + "mov.u32 %r3, %r8;", VALUES) == [t >> 64 for t in total]
    assert words(body + "mov.u32 %r3, %r10;", VALUES) == [WORD - 1 if v else 0 for v in VALUES]
    assert words(body + "mov.u32 %r3, %r12;", VALUES) == [v * v + v >> 32 for v in VALUES]


def test_conversions_to_integers_saturate_and_take_nan_to_zero() -> None:
    values = [2.5, -2.5, 3.5, 1e300, -1e300, math.nan, 2.0**31, -0.5]
    converted = doubles("cvt.rzi.s32.f64 %r3, %fd2; cvt.rn.f64.s32 %fd3, %r3;", values)
    assert converted == [2, -2, 3, 2**31 - 1, -(2**31), 0, 2**31 - 1, 0]
    converted = doubles("cvt.rni.s64.f64 %rd5, %fd2; cvt.rn.f64.s64 %fd3, %rd5;", values)
    assert converted == [2, -2, 4, 2.0**63, -(2.0**63), 0, 2**31, 0]
    converted = doubles("cvt.rmi.u32.f64 %r3, %fd2; cvt.rn.f64.u32 %fd3, %r3;", values)
    assert converted == [2, 0, 3, WORD - 1, 0, 0, 2**31, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lt", [True, False, False]),
        ("ltu", [True, False, True]),
        ("ne", [True, False, False]),
        ("neu", [True, False, True]),
        ("eq", [False, True, False]),
        ("equ", [False, True, True]),
        ("geu", [False, True, True]),
        ("num", [True, True, False]),
        ("nan", [False, False, True]),
    ],
)
def test_comparisons_with_nan(name: str, expected: list[bool]) -> None:
    body = f"setp.{name}.f64 %p1, %fd2, 0d3FF0000000000000; selp.f64 %fd3, 0d3FF0000000000000, 0d0000000000000000, %p1;"
    assert [bool(v) for v in doubles(body, [0.0, 1.0, math.nan])] == expected


def test_extrema_prefer_numbers_unless_told_otherwise() -> None:
    single = "cvt.rn.f32.f64 %f1, %fd2; {} %f2, %f1, 0f40000000; cvt.f64.f32 %fd3, %f2;"
    assert doubles(single.format("max.f32"), [math.nan, 1.0, 3.0]) == [2, 2, 3]
    with_nan = doubles(single.format("max.NaN.f32"), [math.nan, 1.0, 3.0])
    assert math.isnan(with_nan[0])
    assert with_nan[1:] == [2, 3]


def test_subnormal_numbers_are_flushed_where_the_instruction_says_so() -> None:
    body = "cvt.rn.f32.f64 %f1, %fd2; mul{}.f32 %f2, %f1, 0f3F000000; cvt.f64.f32 %fd3, %f2;"
    values = [2.0**-126, -(2.0**-126), 1.0]
    assert doubles(body.format(""), values) == [2.0**-127, -(2.0**-127), 0.5]
    flushed = doubles(body.format(".ftz"), values)
    assert flushed == [0, 0, 0.5]
    assert math.copysign(1, flushed[1]) == -1


def test_coarse_approximations_are_coarse() -> None:
    values = [0.3, -1.7, 0.01]
    tanh = doubles("cvt.rn.f32.f64 %f1, %fd2; tanh.approx.f32 %f2, %f1; cvt.f64.f32 %fd3, %f2;", values)
    errors = [abs(t / math.tanh(v) - 1) for t, v in zip(tanh, values, strict=True)]
    assert 2.0**-14 < max(errors) <= 2.0**-11
    (reciprocal,) = doubles("rcp.approx.ftz.f64 %fd3, %fd2;", [3.0])
    assert 2.0**-30 < abs(3 * reciprocal - 1) < 2.0**-19


def test_a_fused_product_and_sum_is_rounded_once() -> None:
    a, b = np.array([1 + 2.0**-30, 0.1, -0.0, 1e200]), np.array([1 + 2.0**-30, 0.1, 1.0, 1e200])
    c = np.array([-(1 + 2.0**-29), -0.01, -0.0, 1.0])
    with np.errstate(over="ignore", invalid="ignore"):
        result = fused_multiply_add(a, b, c)
    # 0.1 * 0.1 - 0.01 exactly, from the integers that these floats are multiples of
    exact = (int(0.1 * 2**56) ** 2 - (int(0.01 * 2**59) << 53)) / 2**112
    assert result.tolist() == [2.0**-60, exact, -0.0, math.inf]
    assert math.copysign(1, result[2]) == -1


def test_roundings_of_floats() -> None:
    x = np.array([1 + 2.0**-30, -(1 + 2.0**-30)])
    up, down = 1 + 2.0**-23, 1.0
    assert round_float32(x, "rn").tolist() == [down, -down]
    assert round_float32(x, "rz").tolist() == [down, -down]
    assert round_float32(x, "rp").tolist() == [up, -down]
    assert round_float32(x, "rm").tolist() == [down, -up]
    # a tie of bfloat16, and a number just above it that float32 would round onto it
    ties = np.array([1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-40, 1 + 3 * 2.0**-8, math.nan])
    assert bfloat16_bits(ties).tolist() == [0x3F80, 0x3F81, 0x3F82, 0x7FFF]


def test_sums_of_doubles_that_are_not_rounded_to_nearest() -> None:
    one, values = "0d3FF0000000000000", [2.0**-60, -(2.0**-60), 2.0**-52]
    assert doubles(f"add.rn.f64 %fd3, %fd2, {one};", values) == [1, 1, 1 + 2.0**-52]
    assert doubles(f"add.rz.f64 %fd3, %fd2, {one};", values) == [1, 1 - 2.0**-53, 1 + 2.0**-52]
    assert doubles(f"add.rp.f64 %fd3, %fd2, {one};", values) == [1 + 2.0**-52, 1, 1 + 2.0**-52]
    assert doubles(f"sub.rm.f64 %fd3, %fd2, {one};", values) == [-1, -1 - 2.0**-52, 2.0**-52 - 1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("fma.rn.f16x2 %r3, %r2, %r2, %r2;", [1.5 * 1.5 + 1.5, 6.0]),
        ("mul.rn.f16x2 %r3, %r2, %r2;", [2.25, 4.0]),
        ("neg.f16x2 %r3, %r2;", [-1.5, -2.0]),
        ("max.f16x2 %r3, %r2, 0x3F003F00;", [1.75, 2.0]),
        (
            "setp.gt.f16x2 %p1|%p2, %r2, 0x3F003F00; mov.b16 %rs1, 0; selp.b16 %rs2, 0x3C00, 0, %p2;"
            "mov.b32 %r3, {%rs1, %rs2};",
            [0.0, 1.0],
        ),
    ],
    ids=["fma", "mul", "neg", "max", "setp"],
)
def test_arithmetic_of_pairs(body: str, expected: list[float]) -> None:
    lower_and_upper = struct.unpack("<I", struct.pack("<ee", 1.5, 2.0))[0]
    (result,) = words(body, [lower_and_upper])
    assert list(struct.unpack("<ee", struct.pack("<I", result))) == expected


@pytest.mark.parametrize("value", [0.1, -3.3, 1e-40, 6e4])
def test_pairs_of_narrow_floats(value: float) -> None:
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    (pair,) = words("mov.b32 %f1, %r2; mov.b32 %f2, 0f3F800000; cvt.rn.bf16x2.f32 %r3, %f1, %f2;", [bits])
    single = torch.tensor(_float(bits))
    assert pair == single.to(torch.bfloat16).view(torch.int16).item() % 2**16 << 16 | 0x3F80
    (pair,) = words("mov.b32 %f1, %r2; mov.b32 %f2, 0f3F800000; cvt.rn.f16x2.f32 %r3, %f2, %f1;", [bits])
    assert pair == 0x3C00 << 16 | single.to(torch.float16).view(torch.int16).item() % 2**16
