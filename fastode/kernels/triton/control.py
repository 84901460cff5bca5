"""control: judge the attempt of every row, move it on where accepted, propose the next; no word to the host.

What is decided is what :mod:`fastode.kernels.reference.control` says for rows of their own, and what
:class:`fastode.controller.Controller` with :class:`fastode.clock.LockstepClock` says for one shared step
(``LOCKSTEP``). The same launch adds up the error norm, finds the outputs that the attempt passed and writes the times
of the next stages, so that a step needs no further kernels for them. A row moves about 150 bytes: the launch itself is
the cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import Launch, front_door
from .arithmetic import before_end, clamp, nan_max, nan_min, power
from .finish import PartialSums
from .launch import cdiv
from .places import (
    ACCEPT,
    DT,
    ERR,
    EVENT,
    FINISHED,
    FIRST_OUTPUT,
    HISTORY,
    LEAST_ERROR,
    LEAST_SHARE,
    MAX_DOUBLE,
    N_ACCEPTED,
    N_REJECTED,
    NEXT_OUTPUT,
    NEXT_STOP,
    NON_FINITE,
    OLDER,
    RUNNING,
    SINCE_OUTPUT,
    SIZE,
    STATUS,
    STEP_UNDERFLOW,
    T1,
    T_END,
    TOO_MANY_STEPS,
    TRIED_DT,
    TRIED_T,
    T,
)
from .state import DeviceState


@triton.jit
def _error_norm(partial_ptr, bounds_ptr, elements_ptr, r, here, rows, PARTS: tl.constexpr, ROWS: tl.constexpr,
                FOLD: tl.constexpr):  # fmt: skip
    """The largest root mean square of the parts, [ROWS]."""
    norm = tl.zeros([ROWS], tl.float64)
    for part in tl.static_range(PARTS):
        last = tl.load(bounds_ptr + part + 1)
        total = tl.zeros([FOLD, ROWS], tl.float64)
        for first in range(tl.load(bounds_ptr + part), last, FOLD):
            span = first + tl.arange(0, FOLD)
            inside = (span < last)[:, None] & here[None, :]
            total += tl.load(partial_ptr + span.to(tl.int64)[:, None] * rows + r[None, :], mask=inside, other=0.0)
        norm = nan_max(norm, tl.sqrt(tl.sum(total, axis=0) / tl.load(elements_ptr + part)))
    return norm


@triton.jit
def _limit(limits_ptr, i: tl.constexpr, ROWS: tl.constexpr):
    """Number ``i`` of ``DeviceState.limits``, [ROWS]."""
    return tl.load(limits_ptr + i + tl.zeros([ROWS], tl.int32))


@triton.jit
def _judged(err, tried, size, history, older, limits_ptr, LOCKSTEP: tl.constexpr, ROWS: tl.constexpr):
    """Which attempts are accepted, and the sizes of the next ones before they are cut."""
    order = _limit(limits_ptr, 0, ROWS)
    safety = _limit(limits_ptr, 1, ROWS)
    factor_min = _limit(limits_ptr, 2, ROWS)
    factor_max = _limit(limits_ptr, 3, ROWS)
    dt_min = _limit(limits_ptr, 4, ROWS)
    dt_max = _limit(limits_ptr, 5, ROWS)
    finite = tl.abs(err) <= MAX_DOUBLE
    # numbers of which power takes the logarithm
    positive = tl.where(finite & (err > 0), err, 1.0)
    if LOCKSTEP:
        accept = ((err <= 1) & (tried <= dt_max)) | (tried <= dt_min)
        wanted = tl.where(finite, safety / power(positive, 1.0 / order), 0.0)
        factor = nan_min(factor_max, nan_max(wanted, tl.where(err < 1, 1.0, factor_min)))
        factor = tl.where(err == 0, factor_max, factor)
        following = tl.where(err == err, tried * factor, dt_min)
        following = tl.where(tl.abs(following) <= MAX_DOUBLE, clamp(following, dt_min, dt_max), dt_min)
    else:
        accept = (err <= 1) | ((tried <= dt_min) & (err == err))
        exponent = tl.where(accept, -_limit(limits_ptr, 6, ROWS), -1.0 / order)
        wanted = safety * power(positive, exponent)
        filtered = wanted * power(history, -_limit(limits_ptr, 7, ROWS)) * power(older, -_limit(limits_ptr, 8, ROWS))
        wanted = tl.where(accept, filtered, wanted)
        smallest = tried * factor_min
        largest = tried * factor_max
        largest = tl.where(accept, nan_max(largest, size), largest)
        following = tl.where(finite, nan_min(largest, nan_max(tried * wanted, smallest)), smallest)
        following = tl.where(err == 0, largest, following)
    return accept, following


@triton.jit(do_not_specialize=["rows", "n_stops", "n_due"])
def control_kernel(reals_ptr, counts_ptr, stops_ptr, jumps_ptr, due_ptr, times_ptr, limits_ptr, partial_ptr, bounds_ptr,
                   elements_ptr, rows, n_stops, n_due,
                   NODES: tl.constexpr, PARTS: tl.constexpr, START: tl.constexpr, LOCKSTEP: tl.constexpr,
                   ROWS: tl.constexpr, FOLD: tl.constexpr, OUTPUTS: tl.constexpr):  # fmt: skip
    """``START``: only propose the first attempts."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = r < rows
    reals = reals_ptr + r
    counts = counts_ptr + r
    status = tl.load(counts + rows * STATUS, mask=here, other=FINISHED)
    running = here & (status == RUNNING)
    t = tl.load(reals + rows * T, mask=here, other=0.0)
    size = tl.load(reals + rows * SIZE, mask=here, other=0.0)
    t_end = tl.load(reals + rows * T_END, mask=here, other=0.0)
    next_stop = tl.load(counts + rows * NEXT_STOP, mask=here, other=0)
    next_output = tl.load(counts + rows * NEXT_OUTPUT, mask=here, other=0)
    n_accepted = tl.load(counts + rows * N_ACCEPTED, mask=here, other=0)
    attempts = n_accepted + tl.load(counts + rows * N_REJECTED, mask=here, other=0)
    since_output = tl.load(counts + rows * SINCE_OUTPUT, mask=here, other=0)
    broken = here & (t != t)
    hopeless = broken
    paused = broken
    accept = running & ~running
    if not START:
        dt = tl.load(reals + rows * DT, mask=here, other=0.0)
        t1 = tl.load(reals + rows * T1, mask=here, other=0.0)
        history = tl.load(reals + rows * HISTORY, mask=here, other=1.0)
        older = tl.load(reals + rows * OLDER, mask=here, other=1.0)
        err = _error_norm(partial_ptr, bounds_ptr, elements_ptr, r, here, rows, PARTS, ROWS, FOLD)
        tried = tl.abs(dt)
        backward = dt < 0
        accept, following = _judged(err, tried, size, history, older, limits_ptr, LOCKSTEP, ROWS)
        accept = accept & running
        broken = running & (err != err)
        hopeless = broken & ((tried <= _limit(limits_ptr, 4, ROWS)) | (tried <= tl.abs(t_end - t) * LEAST_SHARE))
        # one row may be read by many threads: what they have read is overwritten only when all of them have come here
        tl.debug_barrier()
        tl.store(reals + rows * TRIED_T, t, mask=here)
        tl.store(reals + rows * TRIED_DT, dt, mask=here)
        tl.store(reals + rows * ERR, err, mask=running)
        t = tl.where(accept, t1, t)
        tl.store(reals + rows * OLDER, history, mask=accept)
        tl.store(reals + rows * HISTORY, tl.where(err > LEAST_ERROR, err, LEAST_ERROR), mask=accept)
        tl.store(counts + rows * ACCEPT, accept.to(tl.int64), mask=here)
        tl.store(counts + rows * N_ACCEPTED, n_accepted + accept.to(tl.int64), mask=here)
        tl.store(counts + rows * N_REJECTED, attempts - n_accepted + (running & ~accept).to(tl.int64), mask=here)
        attempts += running.to(tl.int64)
        more_stops = here & (next_stop < n_stops)
        stop = tl.load(stops_ptr + r * n_stops + next_stop, mask=more_stops, other=float("nan"))
        at_stop = accept & (t == stop)
        paused = at_stop & (tl.load(jumps_ptr + r * n_stops + next_stop, mask=more_stops, other=0) == 1)
        if LOCKSTEP:
            resumed = paused & (_limit(limits_ptr, 11, ROWS) == 1)
            following = tl.where(resumed, nan_max(following, size), following)
        size = tl.where(running, following, size)
        next_stop += at_stop.to(tl.int64)
        tl.store(counts + rows * NEXT_STOP, next_stop, mask=here)
        # times of outputs come in order, so that those that were passed are the first of what is left
        first_output = next_output
        more = tl.full([], 1, tl.int32)
        while more > 0:
            place = next_output[:, None] + tl.arange(0, OUTPUTS)[None, :]
            known = accept[:, None] & (place < n_due)
            due = tl.load(due_ptr + r[:, None] * n_due + place, mask=known, other=float("nan"))
            passed = tl.where(backward[:, None], due >= t[:, None], due <= t[:, None])
            found = tl.sum(passed.to(tl.int64), axis=1)
            next_output += found
            more = tl.max((found == OUTPUTS).to(tl.int32), axis=0)
        tl.store(counts + rows * FIRST_OUTPUT, first_output, mask=here)
        tl.store(counts + rows * NEXT_OUTPUT, next_output, mask=here)
        since_output = tl.where(next_output > first_output, 0, since_output)

    else:
        tl.debug_barrier()

    # the next attempt
    left = t_end - t
    stop = tl.load(stops_ptr + r * n_stops + next_stop, mask=here & (next_stop < n_stops), other=float("nan"))
    bounded = clamp(size, _limit(limits_ptr, 4, ROWS), _limit(limits_ptr, 5, ROWS))
    size = tl.where(running & ~hopeless, bounded, size)
    if LOCKSTEP:
        size = tl.where(size == size, size, _limit(limits_ptr, 4, ROWS))
        # a step may pass the end; it lands on prescribed times only
        ended = next_output == n_due - 1
        spent = (attempts >= _limit(limits_ptr, 9, ROWS)) | (since_output >= _limit(limits_ptr, 10, ROWS))
        since_output += 1
        signed = tl.where(left < 0, -size, size)
        proposed = t + signed
        cut = tl.where(left < 0, stop > proposed, stop < proposed)
        t1 = tl.where(cut, stop, proposed)
        dt = tl.where(cut, stop - t, signed)
        underflow = ~tl.where(left < 0, t1 < t, t1 > t)
        # a step of the least size is accepted whatever its error
        lost = accept & broken
        ended = ended & ~lost
    else:
        ended = t == t_end
        spent = attempts >= _limit(limits_ptr, 9, ROWS)
        stop = tl.where(stop == stop, stop, t_end)
        left = stop - t
        cut = size >= tl.abs(left)
        dt = tl.where(cut, left, tl.where(left < 0, -size, size))
        t1 = tl.where(cut, stop, t + dt)
        underflow = t1 == t
        lost = ~(size > 0)
    stopped = tl.where(underflow, STEP_UNDERFLOW, RUNNING)
    stopped = tl.where(spent, TOO_MANY_STEPS, stopped)
    stopped = tl.where(paused, EVENT, stopped)
    stopped = tl.where(lost, NON_FINITE, stopped)
    stopped = tl.where(ended, FINISHED, stopped)
    if not LOCKSTEP:
        stopped = tl.where(hopeless | (broken & (stopped == STEP_UNDERFLOW)), NON_FINITE, stopped)
    status = tl.where(running, stopped.to(tl.int64), status)
    goes_on = here & (status == RUNNING)
    dt = tl.where(goes_on, dt, 0.0)
    t1 = tl.where(goes_on, t1, t)
    tl.store(reals + rows * T, t, mask=here)
    tl.store(reals + rows * T1, t1, mask=here)
    tl.store(reals + rows * DT, dt, mask=here)
    tl.store(reals + rows * SIZE, size, mask=here)
    tl.store(counts + rows * STATUS, status, mask=here)
    tl.store(counts + rows * SINCE_OUTPUT, since_output, mask=goes_on)
    start = t.to(times_ptr.dtype.element_ty)
    length = dt.to(times_ptr.dtype.element_ty)
    for i in tl.static_range(len(NODES)):
        if NODES[i] == 1:
            time = before_end(t1.to(times_ptr.dtype.element_ty), dt < 0)
        else:
            time = start + length * tl.full([ROWS], NODES[i], tl.float64).to(times_ptr.dtype.element_ty)
        tl.store(times_ptr + i * rows + r, time, mask=here)


def control(
    state: DeviceState,
    partial: PartialSums,
    nodes: Sequence[float],
    lockstep: bool,
    start: bool = False,
    launch: Launch = front_door,
) -> None:
    """Judge and propose; or only propose, at the ``start``.

    Args:
        partial: what ``finish`` made of the attempt.
        nodes: of the method, at which the times of the stages lie.
        lockstep: the rule of one shared step, which takes its prescribed times and outputs from row 0.
    """
    rows = len(state)
    if not rows:
        return
    block_rows, fold, outputs = (1, 1024, 256) if rows == 1 else (64, 1, 1)
    launch(
        control_kernel, (cdiv(rows, block_rows),),
        state.reals, state.counts, state.stops, state.jumps, state.due, state.times, state.limits, partial.sums,
        partial.bounds, partial.elements, rows, state.stops.shape[1], state.due.shape[1],
        NODES=tuple(nodes), PARTS=len(partial.first) - 1, START=start, LOCKSTEP=lockstep,
        ROWS=block_rows, FOLD=fold, OUTPUTS=outputs, num_warps=4 if rows == 1 else 2, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def poll_kernel(reals_ptr, counts_ptr, out_ptr, rows, BLOCK: tl.constexpr):
    """How many rows run on; the most steps of their present size that one needs to its end; steps accepted so far."""
    running = tl.zeros([BLOCK], tl.float64)
    accepted = tl.zeros([BLOCK], tl.float64)
    most = tl.zeros([BLOCK], tl.float64)
    for first in range(0, rows, BLOCK):
        r = first + tl.arange(0, BLOCK)
        here = r < rows
        runs = here & (tl.load(counts_ptr + rows * STATUS + r, mask=here, other=FINISHED) == RUNNING)
        left = tl.load(reals_ptr + rows * T_END + r, mask=here, other=0.0)
        left = tl.abs(left - tl.load(reals_ptr + rows * T + r, mask=here, other=0.0))
        size = tl.load(reals_ptr + rows * SIZE + r, mask=here, other=1.0)
        running += runs.to(tl.float64)
        accepted += tl.load(counts_ptr + rows * N_ACCEPTED + r, mask=here, other=0).to(tl.float64)
        most = tl.maximum(most, tl.where(runs, left / size, 0.0))
    tl.store(out_ptr, tl.sum(running, axis=0))
    tl.store(out_ptr + 1, tl.max(most, axis=0))
    tl.store(out_ptr + 2, tl.sum(accepted, axis=0))


def poll(state: DeviceState, out: Tensor) -> None:
    """Into ``out`` [3] float64: the running rows, the most steps to an end at the present sizes, accepted steps."""
    assert out.dtype is torch.float64
    poll_kernel[(1,)](state.reals, state.counts, out, len(state), BLOCK=1024, enable_fp_fusion=True)
