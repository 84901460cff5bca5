"""Hand-written PTX around a few instructions, for what Triton emits seldom or never."""

from __future__ import annotations

import torch

from .emulator import emulate

WORD = 2**32
_TEXT = """
.version 8.0
.target sm_80
.address_size 64
{shared}
.visible .entry test(.param .u64 in, .param .u64 out{scalars})
.reqntid {threads}
{{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<19>;
    .reg .b64 %rd<19>;
    .reg .f32 %f<9>;
    .reg .f64 %fd<9>;
    mov.u32 %r1, %tid.x;
    ld.param.u64 %rd2, [in];
    ld.param.u64 %rd4, [out];
    mul.wide.u32 %rd1, %r1, {stride};
    add.u64 %rd4, %rd4, %rd1;
    {body}
    ret;
}}
"""


def kernel_text(body: str, *, threads: int = 32, shared: int = 0, stride: int = 4, scalars: int = 0) -> str:
    """A kernel ``test(in, out)`` with ``body`` in it.

    ``%r1`` is the number of the thread, ``%rd2`` the address of the first element of ``in``, ``%rd4`` that of the
    thread's own element of ``out`` (of ``stride`` bytes). ``shared`` bytes of shared memory have the name ``buffer``;
    ``scalars`` more parameters of 32 bits follow.
    """
    return _TEXT.format(
        body=body.replace(";", ";\n    "),
        threads=threads,
        stride=stride,
        shared=f".shared .align 16 .b8 buffer[{shared}];" if shared else "",
        scalars="".join(f", .param .u32 scalar{k}" for k in range(scalars)),
    )


def words(body: str, values: list[int]) -> list[int]:
    """What ``body`` leaves in ``%r3`` of each thread, of the values in ``%r2``."""
    source = torch.tensor([v - WORD if v >= WORD // 2 else v for v in values] + [0] * (32 - len(values))).int()
    out = torch.zeros(32, dtype=torch.int32)
    load = "mul.wide.u32 %rd3, %r1, 4; add.u64 %rd3, %rd3, %rd2; ld.global.b32 %r2, [%rd3];"
    emulate(kernel_text(load + body + "st.global.b32 [%rd4], %r3;", shared=256), (1,), (source, out))
    return [v % WORD for v in out.tolist()][: len(values)]


def doubles(body: str, values: list[float]) -> list[float]:
    """What ``body`` leaves in ``%fd3`` of each thread, of the values in ``%fd2``."""
    source = torch.tensor(values + [0.0] * (32 - len(values)), dtype=torch.float64)
    out = torch.full((32,), 7.0, dtype=torch.float64)
    load = "mul.wide.u32 %rd3, %r1, 8; add.u64 %rd3, %rd3, %rd2; ld.global.f64 %fd2, [%rd3];"
    emulate(kernel_text(load + body + "st.global.f64 [%rd4], %fd3;", stride=8), (1,), (source, out))
    return out.tolist()[: len(values)]
