"""Where the compiler must not compute a value again.

A factor of a product has to lie among the threads in another way than its result, and each side of a product in its
own. Rather than move a value from one to the other, Triton computes it again where it needs it: a hidden layer of a
sweep in up to four ways, in some of which every warp holds all of it. Of a program with its vector-Jacobian product
that was most of the work: on tensor cores, a flow of 64 hidden units took 7 times the exponentials and up to 6 times
the multiply-adds.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def settled(x):  # type: ignore[no-untyped-def]
    """``x``, float32 or float64, computed once: an instruction that the compiler cannot look into, and may not repeat.

    It costs nothing. The assembler drops the move; for AMD there is no instruction at all.
    """
    if _INTERPRETED:
        return x
    elif tl.target_info.is_hip():
        return tl.inline_asm_elementwise("", "=v,0", [x], dtype=x.dtype, is_pure=False, pack=1)
    elif x.dtype == tl.float64:
        return tl.inline_asm_elementwise("mov.b64 $0, $1;", "=d,d", [x], dtype=tl.float64, is_pure=False, pack=1)
    else:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=False, pack=1)
