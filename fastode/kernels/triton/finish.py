"""finish:  y1[r, n] = y[r, n] + dt[r] sum_j b[j] k[j, r, n]        unless the last stage is the new state already
            e[r, n]  = dt[r] sum_j b_err[j] k[j, r, n]
            partial[p, r] = sum over n in span p of (e[r, n] / (atol + rtol max(|y[r, n]|, |y1[r, n]|)))^2

One pass: with ``m`` slopes of non-zero weight it moves ``(m + 2) T`` bytes an element for ``2 m + 6`` flops, so memory
bounds it. A long row is shared among programs, each with a span of its columns; ``control`` adds their sums up. Which
columns are added in which order follows from the number of columns alone: a row has the same bits in any batch.
Methods without an error estimate get 0, or NaN where the new state is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import Launch, front_door
from ..reference.finish import Tolerance
from ..upload import upload
from .arithmetic import nan_max, working
from .launch import WIDEST, cdiv, tile

#: tiles of a row that one program adds up
TILES = 4


@triton.jit(do_not_specialize=["rows", "first"])
def finish_kernel(y_ptr, y1_ptr, slopes, dt_ptr, rtol_ptr, atol_ptr, partial_ptr, rows, columns, first,
                  STATE: tl.constexpr, ERROR: tl.constexpr, ESTIMATES: tl.constexpr, WRITE: tl.constexpr,
                  ELEMENTWISE: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr):  # fmt: skip
    """``first``: where the spans of this part of the state begin among all partial sums."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = r < rows
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    dt = tl.load(dt_ptr + r, mask=here, other=0.0)[:, None]
    for i in tl.static_range(TILES):
        c = (tl.program_id(1) * TILES + i) * COLUMNS + tl.arange(0, COLUMNS)
        inside = here[:, None] & (c < columns)[None, :]
        at = r[:, None] * columns + c[None, :]
        y = working(tl.load(y_ptr + at, mask=inside, other=0.0))
        size = dt.to(y.dtype)
        step = tl.zeros([ROWS, COLUMNS], y.dtype)
        error = tl.zeros([ROWS, COLUMNS], y.dtype)
        for j in tl.static_range(len(slopes)):
            slope = working(tl.load(slopes[j] + at, mask=inside, other=0.0))
            if WRITE and STATE[j] != 0:
                step += slope * (tl.full([1, 1], STATE[j], y.dtype) * size)
            if ERROR[j] != 0:
                error += slope * (tl.full([1, 1], ERROR[j], y.dtype) * size)
        if WRITE:
            y1 = y + step
            tl.store(y1_ptr + at, y1.to(y1_ptr.dtype.element_ty), mask=inside)
        else:
            y1 = working(tl.load(y1_ptr + at, mask=inside, other=0.0))
        if ELEMENTWISE:
            rtol = tl.load(rtol_ptr + at, mask=inside, other=1.0).to(y.dtype)
            atol = tl.load(atol_ptr + at, mask=inside, other=1.0).to(y.dtype)
        else:
            rtol = tl.load(rtol_ptr).to(y.dtype)
            atol = tl.load(atol_ptr).to(y.dtype)
        if ESTIMATES:
            ratio = tl.where(inside, error / (atol + rtol * nan_max(tl.abs(y), tl.abs(y1))), 0.0)
        else:
            ratio = y1 * 0
        wide = ratio.to(tl.float64)
        total += wide * wide
    tl.store(partial_ptr + (first + tl.program_id(1)) * rows + r, tl.sum(total, axis=1), mask=here)


@dataclass(frozen=True)
class PartialSums:
    """Sums of squared scaled errors, from which ``control`` makes the norm of every row.

    Attributes:
        sums: [P, R] float64; the spans of the first part of the state, then those of the next.
        bounds: [parts + 1] int32 where those of each part begin, on the device; first: the same on the host.
        elements: [parts] float64, of a row.
        lockstep: one row whose length is that of a batch: tiles do not depend on it, so that kernels do not.
    """

    sums: Tensor
    bounds: Tensor
    elements: Tensor
    first: tuple[int, ...]
    lockstep: bool

    @classmethod
    def of(cls, parts: Sequence[Tensor], rows: int, lockstep: bool = False) -> PartialSums:
        """For the parts of a state that enter the norm, seen as ``rows`` rows each."""
        device = parts[0].device
        columns = [p.numel() // rows if rows else 0 for p in parts]
        first = [0]
        for n in columns:
            _, wide, tiles = _tiles(n, lockstep)
            first.append(first[-1] + cdiv(max(n, 1), tiles * wide))
        return cls(
            torch.zeros(first[-1], rows, dtype=torch.float64, device=device),
            upload(torch.tensor(first, dtype=torch.int32), device),
            upload(torch.tensor([max(n, 1) for n in columns], dtype=torch.float64), device),
            tuple(first),
            lockstep,
        )


def _tiles(columns: int, lockstep: bool) -> tuple[int, int, int]:
    """Rows and columns of a tile, and how many of them a program adds up."""
    if lockstep:
        return 1, WIDEST, 1
    rows, wide = tile(columns)
    return rows, wide, min(TILES, max(1, cdiv(columns, wide)))


class Tolerances:
    """Tolerances of the parts of a state where the kernels find them."""

    def __init__(self, parts: Sequence[Tensor], rtol: Sequence[Tolerance], atol: Sequence[Tolerance]) -> None:
        self.pairs: list[tuple[Tensor, Tensor, bool]] = []
        for part, *pair in zip(parts, rtol, atol, strict=True):
            if any(isinstance(x, Tensor) for x in pair):
                dtype = torch.float32 if part.element_size() == 2 else part.dtype
                r, a = (torch.as_tensor(x, dtype=torch.float64).to(part.device, dtype) for x in pair)
                self.pairs.append((r.expand(part.shape).contiguous(), a.expand(part.shape).contiguous(), True))
            else:
                numbers = upload(torch.tensor(pair, dtype=torch.float64), part.device)
                self.pairs.append((numbers[:1], numbers[1:], False))


def finish(
    y: Tensor,
    y1: Tensor,
    write: bool,
    dt: Tensor,
    slopes: Sequence[Tensor],
    weights: Sequence[float],
    error_weights: Sequence[float],
    tolerance: tuple[Tensor, Tensor, bool],
    partial: PartialSums,
    part: int,
    launch: Launch = front_door,
) -> None:
    """Sums of squared scaled errors of one part, into ``partial``; and its new state into ``y1`` if ``write``.

    Args:
        y, y1, slopes: contiguous, [R, N] elements of one floating dtype.
        dt: [R] float64.
        weights, error_weights: of the slopes; no error weights for a method without an estimate.
    """
    rows = dt.numel()
    if not rows:
        return
    columns = y.numel() // rows
    errors = error_weights or [0.0] * len(slopes)
    used = [(k, b, e) for k, b, e in zip(slopes, weights, errors, strict=True) if (write and b != 0) or e != 0]
    block_rows, block_columns, tiles = _tiles(columns, partial.lockstep)
    spans = partial.first[part + 1] - partial.first[part]
    launch(
        finish_kernel, (cdiv(rows, block_rows), spans),
        y, y1, tuple([k for k, _, _ in used]), dt, *tolerance[:2], partial.sums, rows, columns, partial.first[part],
        STATE=tuple([b for _, b, _ in used]), ERROR=tuple([e for _, _, e in used]),
        ESTIMATES=bool(error_weights), WRITE=write, ELEMENTWISE=tolerance[2], TILES=tiles,
        ROWS=block_rows, COLUMNS=block_columns, enable_fp_fusion=True,
    )  # fmt: skip
