"""Warps exchange, divide and meet again; names and addresses lead where they should."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from .ptx import WORD, words


def test_a_matrix_comes_back_from_shared_memory_as_it_was_stored() -> None:
    # lane i holds the elements 2 i and 2 i + 1 of the matrix, which is transposed on its way
    rows = "mov.u32 %r4, buffer; and.b32 %r5, %r1, 7; shl.b32 %r5, %r5, 4; add.u32 %r4, %r4, %r5;"
    pair = "shl.b32 %r6, %r1, 1; add.s32 %r7, %r6, 1; shl.b32 %r7, %r7, 16; or.b32 %r6, %r6, %r7;"
    there = "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r4], {%r6}; bar.warp.sync -1;"
    back = "ldmatrix.sync.aligned.m8n8.x1{}.shared.b16 {{%r3}}, [%r4];"
    plain = words(rows + pair + there + back.format(""), [0] * 32)
    assert [v & 0xFFFF for v in plain] == list(range(0, 64, 2))
    assert [v >> 16 for v in plain] == list(range(1, 64, 2))
    turned = words(rows + pair + there + back.format(".trans"), [0] * 32)
    matrix = np.arange(64).reshape(8, 8).T.reshape(-1, 2)
    assert [[v & 0xFFFF, v >> 16] for v in turned] == matrix.tolist()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("shfl.sync.bfly.b32 %r3, %r1, 5, 31, -1;", [i ^ 5 for i in range(32)]),
        ("shfl.sync.up.b32 %r3, %r1, 3, 0, -1;", [max(i - 3, 0) if i >= 3 else i for i in range(32)]),
        ("shfl.sync.down.b32 %r3, %r1, 3, 31, -1;", [i + 3 if i + 3 < 32 else i for i in range(32)]),
        ("shfl.sync.idx.b32 %r3, %r1, 2, 0x181F, -1;", [i // 8 * 8 + 2 for i in range(32)]),
        ("redux.sync.add.s32 %r3, %r1, -1;", [496] * 32),
        ("redux.sync.max.u32 %r3, %r1, -1;", [31] * 32),
        ("setp.lt.u32 %p1, %r1, 4; vote.sync.ballot.b32 %r3, %p1, -1;", [15] * 32),
        ("setp.lt.u32 %p1, %r1, 4; vote.sync.any.pred %p2, %p1, -1; selp.b32 %r3, 1, 0, %p2;", [1] * 32),
    ],
    ids=["bfly", "up", "down", "idx", "add", "max", "ballot", "any"],
)
def test_exchange_within_a_warp(body: str, expected: list[int]) -> None:
    assert words(body, [0] * 32) == expected


def test_a_warp_meets_after_its_lanes_were_apart() -> None:
    # lanes double or negate in branches of different length, and then exchange
    body = (
        "and.b32 %r4, %r1, 1; setp.eq.u32 %p1, %r4, 0; @%p1 bra EVEN; neg.s32 %r5, %r1; bra.uni MEET;"
        "EVEN: add.s32 %r5, %r1, %r1; add.s32 %r5, %r5, 100; MEET: shfl.sync.bfly.b32 %r3, %r5, 1, 31, -1;"
    )
    own = [100 + 2 * i if i % 2 == 0 else -i % WORD for i in range(32)]
    assert words(body, [0] * 32) == [own[i ^ 1] for i in range(32)]


def test_lanes_leave_a_loop_one_by_one() -> None:
    body = "mov.b32 %r3, 0; AGAIN: add.s32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, %r1; @%p1 bra AGAIN;"
    assert words(body, [0] * 32) == [max(i, 1) for i in range(32)]


def test_generic_addresses_lead_to_every_memory() -> None:
    body = (
        ".local .align 8 .b8 own[8]; mov.b64 %rd5, own; cvta.local.u64 %rd6, %rd5; st.b32 [%rd6+4], %r1;"
        "ld.local.b32 %r4, [%rd5+4]; mov.u32 %r5, buffer; cvt.u64.u32 %rd7, %r5; cvta.shared.u64 %rd8, %rd7;"
        "mul.wide.u32 %rd9, %r1, 4; add.u64 %rd8, %rd8, %rd9; st.b32 [%rd8], %r4; bar.sync 0;"
        "shl.b32 %r6, %r1, 2; add.u32 %r5, %r5, %r6; ld.shared.b32 %r3, [%r5]; ld.b32 %r7, [%rd3];"
        "add.s32 %r3, %r3, %r7;"
    )
    assert words(body, [1000] * 32) == [1000 + i for i in range(32)]


def test_names_within_braces_are_their_own() -> None:
    body = "mov.b32 %r3, 1; { .reg .b32 t; mov.b32 t, 4; add.s32 %r3, %r3, t; } { .reg .b64 t; mov.b64 t, 9; }"
    assert words(body, [0]) == [5]
