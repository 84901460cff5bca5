"""commit: where a row accepted its attempt,  out[r, i, n] = dense output at the times due[r, i] that it passed,
                                              y[r, n] = y1[r, n],   k0[r, n] = k[S-1, r, n]

The quartic is that of :mod:`fastode.kernels.reference.interpolate`. A program whose rows all rejected reads their flags
and returns: a rejected step writes nothing. Moves ``4 T`` bytes an element where accepted, and once ``(m + 1) T`` more
and ``T`` an output where outputs were passed; memory bounds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..launching import Launch, front_door
from .arithmetic import row_of, working
from .launch import cdiv
from .places import ACCEPT, FIRST_OUTPUT, N_ACCEPTED, NEXT_OUTPUT, TRIED_DT, TRIED_T, T
from .state import DeviceState

BLOCK = 1024


@triton.jit
def _dense_output(y, y1, slopes, at, mask, x, dt, MID: tl.constexpr):
    """The quartic at fractions ``x`` of steps ``dt``, both float64; from the nearer end, so that it meets both."""
    xx = x * x
    u = 1.0 - x
    weight = (xx * (-5.0 + x * (14.0 - 8.0 * x))).to(y.dtype)
    rest = (1.0 - (xx * (-5.0 + x * (14.0 - 8.0 * x)))).to(y.dtype)
    total = tl.zeros_like(y)
    for j in tl.static_range(len(slopes)):
        theta = 16.0 * xx * u * u * tl.full([1], MID[j], tl.float64)
        if j == 0:
            theta += x * u * u * (1.0 - 2.0 * x)
        if j == len(slopes) - 1:
            theta += xx * u * (1.0 - 2.0 * x)
        if MID[j] != 0 or j == 0 or j == len(slopes) - 1:
            total += working(tl.load(slopes[j] + at, mask=mask, other=0.0)) * (dt * theta).to(y.dtype)
    return tl.where(weight > 0.5, y1 + (rest * (y - y1) + total), y + (weight * (y1 - y) + total))


@triton.jit(do_not_specialize=["rows", "n_due", "out_row", "out_time", "kept"])
def commit_kernel(y_ptr, y1_ptr, first_slope_ptr, slopes, reals_ptr, counts_ptr, due_ptr, out_ptr, places_ptr,
                  kept_ptr, log_ptr, middle_ptr,
                  count, columns, rows, n_due, out_row, out_time, kept,
                  MID: tl.constexpr, SHARED: tl.constexpr, PLACED: tl.constexpr, KEEP: tl.constexpr,
                  MIDDLE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """``KEEP`` (one shared step only): it goes to place ``n_accepted - 1 - kept`` of ``kept_ptr`` and ``log_ptr``."""
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    at = begin + tl.arange(0, BLOCK)
    inside = at < count
    if SHARED:
        row = tl.zeros([1], tl.int64)
        accept = tl.load(counts_ptr + rows * ACCEPT + row) != 0
    else:
        row = row_of(begin, tl.arange(0, BLOCK), columns)
        accept = tl.load(counts_ptr + rows * ACCEPT + row, mask=inside, other=0) != 0
    if tl.max(accept.to(tl.int32), axis=0) > 0:
        mask = inside & accept
        new = tl.load(y1_ptr + at, mask=mask, other=0.0)
        first = tl.load(counts_ptr + rows * FIRST_OUTPUT + row, mask=accept, other=0)
        last = tl.load(counts_ptr + rows * NEXT_OUTPUT + row, mask=accept, other=0)
        outputs = tl.max(last - first, axis=0)
        if outputs > 0 or KEEP:
            old = tl.load(y_ptr + at, mask=mask, other=0.0)
            if KEEP:
                place = tl.load(counts_ptr + rows * N_ACCEPTED + row) - 1 - kept
                tl.store(kept_ptr + place * count + at, old, mask=mask)
            y = working(old)
            y1 = working(new)
            t = tl.load(reals_ptr + rows * TRIED_T + row, mask=accept, other=0.0)
            dt = tl.load(reals_ptr + rows * TRIED_DT + row, mask=accept, other=1.0)
            t1 = tl.load(reals_ptr + rows * T + row, mask=accept, other=0.0)
            if KEEP:
                if tl.program_id(0) == 0:
                    tl.store(log_ptr + place * 5, t)
                    tl.store(log_ptr + place * 5 + 1, dt)
                    tl.store(log_ptr + place * 5 + 2, t1)
                    tl.store(log_ptr + place * 5 + 3, first.to(tl.float64))
                    tl.store(log_ptr + place * 5 + 4, last.to(tl.float64))
            target = at - row * columns
            if PLACED:
                target += out_row * tl.load(places_ptr + row, mask=accept, other=0)
            else:
                target += out_row * row
            for i in range(0, outputs):
                index = first + i
                passed = accept & (index < last)
                due = tl.load(due_ptr + row * n_due + index, mask=passed, other=0.0)
                x = tl.where(due == t1, 1.0, (due - t) / dt)
                value = _dense_output(y, y1, slopes, at, mask, x, dt, MID)
                if MIDDLE:
                    change = working(tl.load(middle_ptr + at, mask=mask, other=0.0)) - y
                    value += (16.0 * x * x * (1.0 - x) * (1.0 - x)).to(y.dtype) * change
                value = tl.where(x == 1.0, y1, value)
                value = value.to(out_ptr.dtype.element_ty)
                tl.store(out_ptr + target + index * out_time, value, mask=inside & passed)
        tl.store(y_ptr + at, new, mask=mask)
        last_slope = tl.load(slopes[len(slopes) - 1] + at, mask=mask, other=0.0)
        tl.store(first_slope_ptr + at, last_slope, mask=mask)


def commit(
    y: Tensor,
    y1: Tensor,
    slopes: Sequence[Tensor],
    state: DeviceState,
    out: Tensor,
    mid_weights: Sequence[float],
    places: Tensor | None = None,
    kept: tuple[Tensor, Tensor, int] | None = None,
    middle: Tensor | None = None,
    launch: Launch = front_door,
) -> None:
    """Outputs of the attempt just judged, then ``y`` and ``slopes[0]`` move on, in the rows that accepted it.

    Args:
        y, y1, slopes: contiguous [R, ...], of one floating dtype; ``y`` and ``slopes[0]`` are overwritten.
        out: [R, T, ...], contiguous in the state's own axes.
        mid_weights: of the method; empty if it has no dense output, and then outputs lie at ends of steps.
        places: [R] int64, which rows of ``out`` the rows are; None for the same ones.
        kept: where accepted steps go (one shared step only): their states at the start, [capacity, ...], and numbers,
            [capacity, 5] float64 (start, size, end, first output and that after the last); and how many went elsewhere
            before.
        middle: the state half way, where ``slopes`` are only the first and the last; or None.
    """
    count, rows = y.numel(), len(state)
    if not count:
        return
    shared = rows == 1
    launch(
        commit_kernel, (cdiv(count, BLOCK),),
        y, y1, slopes[0], tuple(slopes), state.reals, state.counts, state.due, out,
        state.counts if places is None else places, y if kept is None else kept[0],
        state.reals if kept is None else kept[1], y if middle is None else middle,
        count, count // rows, rows, state.due.shape[1], out.stride(0), out.stride(1),
        0 if kept is None else kept[2], MID=tuple(mid_weights) or (0.0,) * len(slopes), SHARED=shared,
        PLACED=places is not None, KEEP=kept is not None, MIDDLE=middle is not None, BLOCK=BLOCK,
        num_warps=4 if shared else 8, enable_fp_fusion=True,
    )  # fmt: skip
