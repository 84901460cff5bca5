"""The controller of rows in Triton: that of csrc/include/fastode/controller.h, for all rows of a tile at once.

Every argument is a vector [ROWS] of float64 (status and counters int32), but for ``rule``, which points at the numbers

    order, safety, factor_min, factor_max, dt_min, dt_max, and the filter's three exponents divided by the order.

A number beside an operator takes the tensor's type, but one in a comparison becomes float32: those are exact, or made
by ``tl.full``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...kernels.triton.arithmetic import clamp, power
from ...kernels.triton.places import (
    FINISHED,
    LEAST_ERROR,
    LEAST_SHARE,
    NON_FINITE,
    RUNNING,
    STEP_UNDERFLOW,
    TOO_MANY_STEPS,
)


@triton.jit
def propose_rows(t, t_end, size, status, attempts, rule, max_steps):  # type: ignore[no-untyped-def]
    """The next attempt of the running rows, cut at their ends: ``(t1, dt, size, status)``."""
    running = status == RUNNING
    left = t_end - t
    size = tl.where(running, clamp(size, tl.load(rule + 4), tl.load(rule + 5)), size)
    cut = size >= tl.abs(left)
    dt = tl.where(cut, left, tl.where(left < 0.0, -size, size))
    t1 = tl.where(cut, t_end, t + dt)
    found = tl.where(t1 == t, STEP_UNDERFLOW, RUNNING)
    found = tl.where(attempts >= max_steps, TOO_MANY_STEPS, found)
    found = tl.where(size > 0.0, found, NON_FINITE)
    found = tl.where(t == t_end, FINISHED, found)
    status = tl.where(running, found, status)
    runs = status == RUNNING
    return tl.where(runs, t1, t), tl.where(runs, dt, 0.0), size, status


@triton.jit
def control_rows(  # type: ignore[no-untyped-def]
    err, t, t1, dt, size, last, before, status, n_accepted, n_rejected, t_end, rule, max_steps
):
    """Judges the attempts of the running rows, moves them on where accepted, and proposes the next.

    Args:
        err: scaled error norms; last, before: those of the two accepted steps before.

    Returns:
        ``accept``, then the arguments from ``t`` to ``n_rejected`` as they are now.
    """
    safety, factor_min, factor_max = tl.load(rule + 1), tl.load(rule + 2), tl.load(rule + 3)
    dt_min = tl.load(rule + 4)
    f0, f1, f2 = tl.load(rule + 6), tl.load(rule + 7), tl.load(rule + 8)
    running = status == RUNNING
    tried = tl.abs(dt)
    broken = err != err
    shortest = tried <= dt_min
    accept = running & ((err <= 1.0) | (shortest & (err == err)))
    least_share = tl.full([], LEAST_SHARE, tl.float64)
    hopeless = running & broken & (shortest | (tried <= least_share * tl.abs(t_end - t)))

    wanted = safety * power(err, tl.where(accept, -f0, -1.0 / tl.load(rule)))
    if f1 != 0.0:
        wanted *= tl.where(accept, power(last, -f1), 1.0)
    if f2 != 0.0:
        wanted *= tl.where(accept, power(before, -f2), 1.0)
    smallest, largest = tried * factor_min, tried * factor_max
    largest = tl.where(accept & (size > largest), size, largest)
    next_size = tried * wanted
    next_size = tl.where(next_size < smallest, smallest, next_size)
    next_size = tl.where(next_size > largest, largest, next_size)
    next_size = tl.where(tl.abs(err) < float("inf"), next_size, smallest)
    size = tl.where(running, tl.where(err == 0.0, largest, next_size), size)

    t = tl.where(accept, t1, t)
    before = tl.where(accept, last, before)
    least_error = tl.full([], LEAST_ERROR, tl.float64)
    last = tl.where(accept, tl.where(err > least_error, err, least_error), last)
    n_accepted += accept.to(tl.int32)
    n_rejected += (running & (accept == 0)).to(tl.int32)
    status = tl.where(hopeless, NON_FINITE, status)
    t1, dt, size, status = propose_rows(t, t_end, size, status, n_accepted + n_rejected, rule, max_steps)
    status = tl.where(running & broken & (status == STEP_UNDERFLOW), NON_FINITE, status)
    return accept, t, t1, dt, size, last, before, status, n_accepted, n_rejected


@triton.jit
def starting_step(norm, slope_norm, span):  # type: ignore[no-untyped-def]
    """The trial step of Hairer, Norsett, Wanner I, II.4, from the scaled norms of state and slope; within the span."""
    small = tl.full([], 1e-5, tl.float64)
    step = tl.where((norm < small) | (slope_norm < small), tl.full([], 1e-6, tl.float64), 0.01 * norm / slope_norm)
    return tl.where(step > span, span, step)


@triton.jit
def choose_first(step, slope_norm, change_norm, span, rule):  # type: ignore[no-untyped-def]
    """The first step from the trial step and the scaled norm of the slope's change over it."""
    change = change_norm / step
    larger = tl.where((change < float("inf")) & (change > slope_norm), change, slope_norm)
    flat = 0.001 * step
    least = tl.full([], 1e-6, tl.float64)
    flat = tl.where(flat < least, least, flat)
    curved = power(0.01 / larger, 1.0 / tl.load(rule))
    size = tl.where(larger <= tl.full([], 1e-15, tl.float64), flat, curved)
    size = tl.where(size < 100.0 * step, size, 100.0 * step)
    return tl.where(span == 0.0, 1.0, size)


@triton.jit
def weighted(weight, slope):  # type: ignore[no-untyped-def]
    """``weight * slope``; a stage of no weight counts for nothing, whatever its slope."""
    return tl.where(weight == 0.0, 0.0, weight * slope)


@triton.jit
def quartic_weights(x):  # type: ignore[no-untyped-def]
    """Of ``y1 - y``, the slope at the midpoint, the first and the last slope, at a fraction ``x`` of the step.

    Those of :mod:`fastode.kernels.reference.interpolate`.
    """
    square, rest = x * x, 1.0 - x
    at_end = square * (-5.0 + x * (14.0 - 8.0 * x))
    return at_end, 16.0 * square * rest * rest, x * rest * rest * (1.0 - 2.0 * x), square * rest * (1.0 - 2.0 * x)
