"""control:  accept[r] = err[r] <= 1,   t[r] = t1[r] if accepted,   size[r] = |dt[r]| * factor,   dt[r] cut at stops

    factor = min(factor_max, max(safety * err^-f0 * err1^-f1 * err2^-f2, factor_min))

``err1`` and ``err2`` are the errors of the accepted steps before. After an accepted step that was cut at a stop the
bound is the size before the cut, if that is larger. A rejection is followed by the integral controller,
``safety * err^(-1/order)``: a filter could propose the same step again. Unlike :class:`fastode.controller.Controller`,
which is torchdiffeq's, a step that was only just accepted may shrink the next one; that saves rejections.
Reference: Soderlind, "Digital filters in adaptive time-stepping", ACM TOMS 29, 2003.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...controller import Controller
from ..row_state import (
    FINISHED,
    LEAST_ERROR,
    LEAST_SHARE,
    NON_FINITE,
    RUNNING,
    STEP_UNDERFLOW,
    TOO_MANY_STEPS,
    RowState,
)
from .combine import where_rows


def power(x: Tensor, exponent: float) -> Tensor:
    """``x ** exponent`` [R]: the same bits at every place, which torch gives beside whole vectors only."""
    room = -len(x) % (64 * torch.get_num_threads())
    return torch.cat([x, x.new_ones(room)]).pow(exponent)[: len(x)]


class RowControl:
    """Controls the rows of one batch.

    Args:
        state: their arrays, which stay the same ones.
        controller: shared coefficients and limits.
        max_steps: limit on the attempts of a row.
    """

    def __init__(self, state: RowState, controller: Controller, max_steps: int) -> None:
        self.state = state
        self.controller = controller
        self.max_steps = max_steps

    def start(self) -> None:
        """The first attempt of every row."""
        _propose(self.state, self.state.status == RUNNING, self.controller, self.max_steps)

    def control(self) -> tuple[int, int, Tensor]:
        """Judge the attempts by ``state.err``, move on where accepted, propose the next.

        Rows that have stopped stay as they are. An error that is NaN or infinite rejects with the smallest factor: the
        step may have left the field's domain. A row ends as non-finite when that does not help.

        Returns:
            How many rows run on, how many accepted, and the positions of those that have passed the time of an output,
            which are overwritten by the next call.
        """
        state, controller = self.state, self.controller
        running = state.status == RUNNING
        err, tried, history = state.err, state.dt.abs(), state.history
        backward = state.dt < 0
        broken, shortest = err.isnan(), tried <= controller.dt_min
        accept = running & ((err <= 1) | (shortest & ~broken))
        f0, f1, f2 = (f / controller.order for f in controller.filter)
        filtered = controller.safety / power(err, f0) / power(history[:, 0], f1) / power(history[:, 1], f2)
        wanted = torch.where(accept, filtered, controller.safety / power(err, 1 / controller.order))
        smallest, largest = tried * controller.factor_min, tried * controller.factor_max
        largest = torch.where(accept, torch.maximum(largest, state.size), largest)
        size = torch.where(err.isfinite(), (tried * wanted).maximum(smallest).minimum(largest), smallest)
        _set(state.size, running, torch.where(err == 0, largest, size))
        state.accept.copy_(accept)
        _set(state.t, accept, state.t1)
        if state.stops.shape[1]:
            state.next_stop += accept & (state.next_stop < state.stops.shape[1]) & (state.t == _next_stop(state))
        _set(history[:, 1], accept, history[:, 0].clone())
        _set(history[:, 0], accept, err.clamp(min=LEAST_ERROR))
        state.n_accepted += accept
        state.n_rejected += running & ~accept
        hopeless = shortest | (tried <= LEAST_SHARE * (state.t_end - state.t).abs())
        _stop(state, running & broken & hopeless, NON_FINITE)
        _propose(state, state.status == RUNNING, controller, self.max_steps)
        _stop(state, running & broken & (state.status == STEP_UNDERFLOW), NON_FINITE)
        return self._outcome(backward)

    def _outcome(self, backward: Tensor) -> tuple[int, int, Tensor]:
        """What :meth:`control` returns, once the arrays are up to date; ``backward``: where time decreased."""
        state = self.state
        passed = state.accept & torch.where(backward, state.due >= state.t, state.due <= state.t)
        counts: list[int] = torch.stack([state.status == RUNNING, state.accept, passed]).sum(dim=1).tolist()
        running, accepted, with_output = counts
        return running, accepted, passed.nonzero().squeeze(1) if with_output else state.next_stop[:0]

    def select(self, new: Tensor, old: Tensor) -> Tensor:
        """``new`` in the rows that accepted, ``old`` in the others."""
        return where_rows(self.state.accept, new, old)


def _next_stop(state: RowState) -> Tensor:
    """Where the steps under way must end at the latest."""
    stops = torch.cat([state.stops, state.t_end[:, None]], dim=1)
    return stops.gather(1, state.next_stop[:, None]).squeeze(1)


def _propose(state: RowState, running: Tensor, controller: Controller, max_steps: int) -> None:
    """The next attempt of the running rows, cut at the next stop."""
    t, stop = state.t, _next_stop(state)
    left = stop - t
    _set(state.size, running, state.size.clamp(controller.dt_min, controller.dt_max))
    size = state.size
    cut = size >= left.abs()
    dt = torch.where(cut, left, torch.copysign(size, left))
    t1 = torch.where(cut, stop, t + dt)
    _set(state.dt, running, dt)
    _set(state.t1, running, t1)
    for reason, status in (
        (t == state.t_end, FINISHED),
        (~(size > 0), NON_FINITE),
        (state.n_accepted + state.n_rejected >= max_steps, TOO_MANY_STEPS),
        (t1 == t, STEP_UNDERFLOW),
    ):
        stopped = running & reason
        _stop(state, stopped, status)
        running = running & ~stopped


def _stop(state: RowState, rows: Tensor, status: int) -> None:
    state.status.masked_fill_(rows, status)
    state.dt.masked_fill_(rows, 0.0)
    _set(state.t1, rows, state.t)


def _set(array: Tensor, rows: Tensor, values: Tensor) -> None:
    array.copy_(torch.where(rows, values, array))
