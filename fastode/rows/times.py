"""Spans, times of evaluation and times on which steps must end, of each row: checked, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgument


def per_row(name: str, value: Any, rows: int, device: torch.device) -> Tensor:
    """A number or [B] as float64 [B], with its gradient.

    Raises:
        InvalidArgument: another shape, NaN or infinite.
    """
    try:
        given = torch.as_tensor(value, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidArgument(f"{name} must be a number or a tensor [{rows}], but is {value!r}") from None
    if given.shape not in ((), (1,), (rows,)):
        raise InvalidArgument(
            f"{name} must be a number or have one entry for each of the {rows} samples, but has shape "
            f"{tuple(given.shape)}"
        )
    if not bool(given.isfinite().all()):
        raise InvalidArgument(f"{name} must be finite")
    return given.expand(rows).contiguous()


def spans_and_times(t_span: Any, t_eval: Any, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Starts and ends [B], and times of evaluation [B, T] padded with NaN, with their gradients.

    Raises:
        InvalidArgument: both are missing, a shape is wrong, or times do not go from start to end.
    """
    ts = None if t_eval is None else _times("t_eval", t_eval, rows, device)
    if ts is not None and not ts.shape[1]:
        raise InvalidArgument(
            "t_eval must hold at least one time, but is empty; leave it out for both ends of `t_span`"
        )
    if t_span is None:
        if ts is None:
            raise InvalidArgument("one of `t_span` and `t_eval` must be given")
        count = (~ts.isnan()).sum(dim=1)
        if bool((count == 0).any()):
            raise InvalidArgument("t_eval has no times for some samples; give their `t_span`")
        t0, t_end = ts[:, 0].contiguous(), ts.gather(1, count[:, None] - 1).squeeze(1)
    else:
        if not isinstance(t_span, Sequence | Tensor) or len(t_span) != 2:
            raise InvalidArgument(f"t_span must be a pair (start, end), but is {t_span!r}")
        t0, t_end = (per_row(f"t_span[{i}]", t_span[i], rows, device) for i in (0, 1))
    if ts is None:
        return t0, t_end, torch.stack([t0, t_end], dim=1)
    sign = torch.sign(t_end - t0)[:, None]
    later = sign * ts.diff(dim=1)
    if bool((later <= 0).any()):
        row = int((later <= 0).any(dim=1).nonzero()[0])
        raise InvalidArgument(f"t_eval must go strictly from start to end in every row, but does not in row {row}")
    outside = (sign * ts < sign * t0[:, None]) | (sign * ts > sign * t_end[:, None])
    if bool(outside.any()):
        row = int(outside.any(dim=1).nonzero()[0])
        raise InvalidArgument(
            f"t_eval must lie within t_span, but row {row} goes from {float(t0[row]):g} to {float(t_end[row]):g} and "
            f"has t={float(ts[row][outside[row]][0]):g}"
        )
    return t0, t_end, ts


def stops(step_t: Any, jump_t: Any, t0: Tensor, t_end: Tensor, outputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Times inside the spans on which steps must end, and at which of them the field jumps.

    Args:
        step_t, jump_t: [K], [B, K], a sequence of B tensors, or None; in any order, those outside the span are dropped.
        t0, t_end: [B] float64.
        outputs: [B, T] float64; further times on which a step must end.

    Returns:
        [B, S] float64 in the order in which they come, then ``t_end``; [B, S] bool.

    Raises:
        InvalidArgument: another shape, not finite, or it requires grad.
    """
    rows = len(t0)
    if step_t is None and jump_t is None and outputs is None:
        none = t0.new_empty(rows, 0)
        return none, none.bool()
    steps, jumps = (
        t0.new_empty(rows, 0) if given is None else _times(name, given, rows, t0.device)
        for name, given in (("step_t", step_t), ("jump_t", jump_t))
    )
    for name, times in (("step_t", steps), ("jump_t", jumps)):
        if times.requires_grad:
            raise InvalidArgument(f"{name} cannot require gradient: use {name}.detach()")
    times = torch.cat([jumps, steps] if outputs is None else [jumps, steps, outputs], dim=1)
    times, first = in_order(times, t0, t_end)
    is_jump = (first >= 0) & (first < jumps.shape[1])
    return times, is_jump


def in_order(times: Tensor, t0: Tensor, t_end: Tensor) -> tuple[Tensor, Tensor]:
    """Different times inside the spans in the order in which they come.

    Args:
        times: [B, K] float64; NaN and those outside are dropped.

    Returns:
        [B, S] float64, after the last ``t_end``; [B, S] the first place of each in ``times``, -1 after the last.
    """
    sign = torch.sign(t_end - t0)[:, None]
    due = sign * times
    inside = (due > sign * t0[:, None]) & (due < sign * t_end[:, None])
    due, order = torch.where(inside, due, math.inf).sort(dim=1, stable=True)
    due[:, 1:].masked_fill_(due.diff(dim=1) == 0, math.inf)
    due, again = due.sort(dim=1, stable=True)
    inside = due.isfinite()
    count = int(inside.sum(dim=1).max()) if due.numel() else 0
    times = torch.where(inside, sign * due, t_end[:, None])[:, :count].contiguous()
    return times, torch.where(inside, order.gather(1, again), -1)[:, :count]


def _times(name: str, given: Any, rows: int, device: torch.device) -> Tensor:
    """[B, T] float64, padded with NaN."""
    if isinstance(given, Tensor) and given.ndim in (1, 2):
        times = given.to(device=device, dtype=torch.float64)
        if not bool(times.isfinite().all()):
            raise InvalidArgument(f"{name} must be finite")
        if times.ndim == 1:
            return times.expand(rows, -1).contiguous()
        if len(times) == rows:
            return times.contiguous()
    elif isinstance(given, Sequence) and len(given) == rows and all(isinstance(t, Tensor) for t in given):
        each = [_times(name, t, 1, device)[0] for t in given]
        longest = max((len(t) for t in each), default=0)
        times = torch.full((rows, longest), math.nan, dtype=torch.float64, device=device)
        for i, t in enumerate(each):
            times[i, : len(t)] = t
        return times
    shape = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"type {type(given).__name__}"
    raise InvalidArgument(
        f"{name} must be a tensor [T] or [{rows}, T], or a list of {rows} one-dimensional tensors, but has {shape}"
    )
