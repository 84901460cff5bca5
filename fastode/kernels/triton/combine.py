"""combine:  out[n] = base[n] + sum_j w[j] v[j, n]      with weights that are not a method's: dense output, cotangents

One pass: with ``m`` vectors it moves ``(m + 2) T`` bytes an element for ``2 m`` flops, so memory bounds it. The weights
differ from call to call and are read on the device: there is one variant for each number of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..upload import upload
from .arithmetic import working
from .launch import cdiv

BLOCK = 1024


@triton.jit
def combine_kernel(base_ptr, vectors, weights_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = working(tl.load(base_ptr + at, mask=inside, other=0.0))
    for j in tl.static_range(len(vectors)):
        weight = tl.load(weights_ptr + j).to(total.dtype)
        total += weight * working(tl.load(vectors[j] + at, mask=inside, other=0.0))
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=inside)


def combine(base: Tensor, vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The new tensor ``out``.

    Args:
        base, vectors: contiguous, of one shape and floating dtype.
        weights: of the vectors; those of weight zero are not read.
    """
    out = torch.empty_like(base)
    used = [(v, w) for v, w in zip(vectors, weights, strict=True) if w != 0]
    count = base.numel()
    if not used:
        return out.copy_(base)
    if count:
        numbers = upload(torch.tensor([w for _, w in used], dtype=torch.float64), base.device)
        vectors = tuple([v for v, _ in used])
        combine_kernel[(cdiv(count, BLOCK),)](
            base, vectors, numbers, out, count, BLOCK=BLOCK, enable_fp_fusion=True
        )  # fmt: skip
    return out
