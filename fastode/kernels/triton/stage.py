"""stage:  z[r, n] = y[r, n] + dt[r] sum_j a[j] k[j, r, n]      the state at which a stage is evaluated

It is its own backward kernel: of the cotangents of later stages, by a column of the tableau and without ``y``, it makes
the cotangent of a slope.

One pass: with ``m`` slopes of non-zero weight it moves ``(m + 2) T`` bytes an element for ``2 m`` flops, so memory
bounds it. The weights are constants of the kernel: a method has one variant a stage. ``dt`` is read on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import Launch, front_door
from .arithmetic import row_of, working
from .launch import cdiv

BLOCK = 1024


@triton.jit
def stage_kernel(y_ptr, slopes, dt_ptr, z_ptr, count, columns, WEIGHTS: tl.constexpr, SHARED: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """``SHARED``: all elements have one step size, so that no row has to be found."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = first + tl.arange(0, BLOCK)
    inside = at < count
    if SHARED:
        dt = tl.load(dt_ptr)
    else:
        dt = tl.load(dt_ptr + row_of(first, tl.arange(0, BLOCK), columns), mask=inside, other=0.0)
    step = working(tl.zeros([BLOCK], z_ptr.dtype.element_ty))
    dt = dt.to(step.dtype)
    for j in tl.static_range(len(slopes)):
        slope = working(tl.load(slopes[j] + at, mask=inside, other=0.0))
        step += slope * (tl.full([BLOCK], WEIGHTS[j], step.dtype) * dt)
    if y_ptr is not None:
        step = working(tl.load(y_ptr + at, mask=inside, other=0.0)) + step
    tl.store(z_ptr + at, step.to(z_ptr.dtype.element_ty), mask=inside)


def stage(
    y: Tensor | None, dt: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], launch: Launch = front_door
) -> Tensor:
    """The new tensor ``z``.

    Args:
        y, slopes: contiguous [R, ...], of one floating dtype; no ``y`` for a sum that starts at 0.
        dt: [R] or [1] float64; one step size for all rows, or one each.
        weights: of the slopes; those of weight zero are not read.
    """
    z = torch.empty_like(slopes[0] if y is None else y)
    count = z.numel()
    if count:
        used = [(k, w) for k, w in zip(slopes, weights, strict=True) if w != 0]
        rows = dt.numel()
        launch(
            stage_kernel, (cdiv(count, BLOCK),),
            y, tuple([k for k, _ in used]), dt, z, count, count // rows,
            WEIGHTS=tuple([w for _, w in used]), SHARED=rows == 1, BLOCK=BLOCK, enable_fp_fusion=True,
        )  # fmt: skip
    return z
