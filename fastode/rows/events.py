"""Events of each row: roots of functions of time and state, located on the dense output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import FieldError, InvalidArgument, UnsupportedInput
from ..kernels.reference import where_rows
from ..kernels.row_state import EVENT, NON_FINITE
from ..loop import Step
from ..problem import Problem
from ..tableau import ButcherTableau
from ..tree import Parts
from .clock import RowsClock
from .dense import Pieces

EventFn = Callable[..., Tensor]


@dataclass(frozen=True)
class Event:
    """A function of time and state whose roots are events.

    Attributes:
        function: ``function(t, y, *args) -> [b]`` with ``t`` [b] and ``y`` [b, ...], one number a row.
        terminal: whether the row stops there.
        direction: +1 for roots where the function rises along the integration, -1 where it falls, 0 for both.
        skip_start: whether a root at the start of the span is not an event, as when a solve goes on from one.
    """

    function: EventFn
    terminal: bool = True
    direction: int = 0
    skip_start: bool = False


def check_events(event_fn: Any) -> tuple[Event, ...]:
    """Functions and events as a tuple of events.

    Raises:
        UnsupportedInput: something else.
        InvalidArgument: a direction other than -1, 0, 1.
    """
    given = event_fn if isinstance(event_fn, Sequence) else () if event_fn is None else (event_fn,)
    events = tuple([e if isinstance(e, Event) else Event(e) for e in given])
    for i, event in enumerate(events):
        if not callable(event.function):
            raise UnsupportedInput(
                f"event_fn[{i}] must be a fastode.Event or callable as event_fn(t, y, *args), but is a "
                f"{type(event.function).__name__}"
            )
        if event.direction not in (-1, 0, 1):
            raise InvalidArgument(f"event_fn[{i}].direction must be -1, 0 or 1, but is {event.direction!r}")
    return events


@dataclass(frozen=True)
class Found:
    """Events inside one step of the batch.

    Attributes:
        at: [m] positions in the batch; which: [m] of which function.
        t: [m] float64; x: [m] float64, fractions of the step.
        y: states there.
        terminal: [m] bool.
    """

    at: Tensor
    which: Tensor
    t: Tensor
    x: Tensor
    y: Parts
    terminal: Tensor


class RowEvents:
    """Watches E event functions over the accepted steps. A step holds at most one event a row and function.

    Attributes:
        rows, which, t: of each event found so far, a list of tensors [m]; states: a list of parts [m, ...].
    """

    def __init__(self, events: Sequence[Event], problem: Problem, tableau: ButcherTableau, clock: RowsClock) -> None:
        self.events = events
        self.problem = problem
        self.tableau = tableau
        self.clock = clock
        self.rows: list[Tensor] = []
        self.which: list[Tensor] = []
        self.t: list[Tensor] = []
        self.states: list[Parts] = []
        device = clock.t.device
        self.directions = torch.tensor([e.direction for e in events], device=device)
        self.terminal = torch.tensor([e.terminal for e in events], device=device)
        #: [B, E] values at the start of the step under way
        self.values = torch.zeros(len(clock.t), len(events), dtype=torch.float64, device=device)
        #: [B, E] whether the value just after the start is the one that counts
        self.skipping = torch.tensor([e.skip_start for e in events], device=device).expand_as(self.values).clone()
        epsilon = torch.finfo(problem.real_dtype).eps
        self.tolerance = 4 * epsilon
        self.just_after = epsilon**0.5

    def start(self, t: Tensor, y: Parts) -> Found:
        """Values at the start, and the events there."""
        self.values = self._values(t, y, None)
        at, which = ((self.values == 0) & ~self.skipping).nonzero().unbind(1)
        x = torch.zeros_like(t[at])
        found = Found(at, which, t[at], x, tuple([p[at] for p in y]), self.terminal[which])
        self._keep(found, at)
        self._stop(found, self.values.isnan().any(dim=1), t)
        return found

    def accepted(self, step: Step) -> Found | None:
        """The events in the step; rows with a terminal one stop there."""
        rows, accept = self.clock.rows, step.accept
        assert isinstance(accept, Tensor)
        before = self.values if rows is None else self.values[rows]
        skipping = (self.skipping if rows is None else self.skipping[rows]) & accept[:, None]
        left = torch.zeros_like(before)
        if bool(skipping.any()):
            before, left = self._settle(step, before, skipping)
        now = self._values(step.t1, step.y1, rows)
        sign0, sign1 = torch.sign(before), torch.sign(now)
        crossing = accept[:, None] & (sign0 != 0) & (sign1 != sign0) & ~now.isnan()
        crossing &= (self.directions == 0) | (self.directions == -sign0)
        kept = torch.where(accept[:, None], now, before)
        if rows is None:
            self.values = kept
        else:
            self.values[rows] = kept
        broken = accept & now.isnan().any(dim=1)
        if not bool(crossing.any()) and not bool(broken.any()):
            return None
        found = self._locate(step, crossing, before, now, left)
        self._keep(found, self.clock.rows_at(found.at))
        self._stop(found, broken, step.t1)
        last = found.at[found.terminal]
        step.end_at(last, tuple([p[found.terminal] for p in found.y]))
        return found

    def _settle(self, step: Step, before: Tensor, skipping: Tensor) -> tuple[Tensor, Tensor]:
        """Values just after the start for the events that skip it, and the fractions of the step where they are."""
        at = skipping.any(dim=1).nonzero().squeeze(1)
        pieces = self._pieces(step, at)
        x = torch.full_like(pieces.t, self.just_after)
        values = self._values(pieces.t + x * pieces.dt, pieces(x), pieces.rows)
        before = torch.where(skipping, before.index_copy(0, at, values), before)
        self.skipping[pieces.rows] = False
        return before, torch.where(skipping, self.just_after, 0.0)

    def _locate(self, step: Step, crossing: Tensor, before: Tensor, now: Tensor, left: Tensor) -> Found:
        """Where inside the step the events are, up to the first terminal one of each row."""
        parts = []
        for e in range(len(self.events)):
            at = crossing[:, e].nonzero().squeeze(1)
            pieces = self._pieces(step, at)

            def value(x: Tensor, e: int = e, pieces: Pieces = pieces) -> Tensor:
                return self._value(e, pieces.t + x * pieces.dt, pieces(x), pieces.rows)

            x = root(value, left[at, e], before[at, e], now[at, e], self.tolerance)
            at_end = x == 1.0
            t = torch.where(at_end, step.t1[at], pieces.t + x * pieces.dt)
            y = tuple([where_rows(at_end, end[at], b) for b, end in zip(pieces(x), step.y1, strict=True)])
            parts.append((at, torch.full_like(at, e), t, x, y))
        at, which, t, x = (torch.cat([p[i] for p in parts]) for i in range(4))  # type: ignore[misc]
        states = tuple([torch.cat(p) for p in zip(*[part[4] for part in parts], strict=True)])
        terminal = self.terminal[which]
        end = torch.full_like(step.t, torch.inf).scatter_reduce(0, at[terminal], x[terminal], "amin")
        kept = (x <= end[at]).nonzero().squeeze(1)
        return Found(at[kept], which[kept], t[kept], x[kept], tuple([p[kept] for p in states]), terminal[kept])

    def _pieces(self, step: Step, at: Tensor) -> Pieces:
        return Pieces.of_step(self.tableau, step, self.clock.rows_at(at), at)

    def _keep(self, found: Found, rows: Tensor) -> None:
        self.rows.append(rows)
        self.which.append(found.which)
        self.t.append(found.t)
        self.states.append(found.y)

    def _stop(self, found: Found, broken: Tensor, t: Tensor) -> None:
        at = broken.nonzero().squeeze(1)
        self.clock.stop(at, t[at], NON_FINITE)
        self.clock.stop(found.at[found.terminal], found.t[found.terminal], EVENT)

    def _values(self, t: Tensor, y: Parts, rows: Tensor | None) -> Tensor:
        return torch.stack([self._value(e, t, y, rows) for e in range(len(self.events))], dim=1)

    def _value(self, e: int, t: Tensor, y: Parts, rows: Tensor | None) -> Tensor:
        return event_value(self.events, e, self.problem, t, y, rows).detach().to(torch.float64)


def event_value(events: Sequence[Event], e: int, problem: Problem, t: Tensor, y: Parts, rows: Tensor | None) -> Tensor:
    """The values [m] of an event function for ``rows`` (None for all) at ``t`` [m] and ``y``.

    Raises:
        FieldError: it returned something else.
    """
    args = problem.field.args if rows is None else problem.field.args_of(rows)
    value = events[e].function(problem.time(t), problem.restore_state(y), *args)
    if not isinstance(value, Tensor):
        raise FieldError(f"event_fn[{e}](t, y) returned a {type(value).__name__}; return a torch.Tensor [{len(t)}]")
    if value.shape != t.shape:
        raise FieldError(
            f"event_fn[{e}](t, y) has shape {tuple(value.shape)}, but must have one number for each of {len(t)} rows"
        )
    return value


def root(value: Callable[[Tensor], Tensor], a: Tensor, fa: Tensor, fb: Tensor, tolerance: float) -> Tensor:
    """Where ``value`` leaves the sign of ``fa``, between ``a`` and 1: the right end of a bracket within ``tolerance``.

    The ITP method, each row by itself: never slower than bisection by more than two evaluations, superlinear on
    smooth functions. Oliveira, Takahashi, "An enhancement of the bisection method average performance preserving
    minmax optimality", ACM TOMS 47, 2020 (with kappa_1 = 0.2, kappa_2 = 2, n_0 = 1).
    """
    b = torch.ones_like(a)
    sign = torch.sign(fa)
    fa, fb = sign * fa, sign * fb
    longest = math.ceil(math.log2(1 / tolerance)) + 1
    for i in range(longest + 1):
        width, middle = b - a, (a + b) / 2
        open_ = width > tolerance
        if not bool(open_.any()):
            break
        secant = torch.where(fa != fb, (fb * a - fa * b) / (fb - fa), middle)
        toward = torch.sign(middle - secant)
        shift = (0.2 * width * width).clamp(min=tolerance / 2)
        x = torch.where(shift <= (middle - secant).abs(), secant + toward * shift, middle)
        radius = tolerance / 2 * 2.0 ** (longest - i) - width / 2
        x = torch.where((x - middle).abs() <= radius, x, middle - toward * radius)
        fx = sign * value(x)
        before, after = open_ & (fx > 0), open_ & ~(fx > 0)
        a, fa = torch.where(before, x, a), torch.where(before, fx, fa)
        b, fb = torch.where(after, x, b), torch.where(after, fx, fb)
    return b


def in_table(
    rows: Tensor, which: Tensor, t: Tensor, y: Parts, n_rows: int, n_events: int
) -> tuple[tuple[Tensor, ...], tuple[Parts, ...]]:
    """Events [N] as for each function times [B, M] and states [B, M, ...], in their order and padded with NaN."""
    times, states = [], []
    for e in range(n_events):
        own = (which == e).nonzero().squeeze(1)
        own = own[rows[own].argsort(stable=True)]
        count = torch.bincount(rows[own], minlength=n_rows)
        row = rows[own]
        place = torch.arange(len(own), device=own.device) - (count.cumsum(0) - count)[row]
        shape = n_rows, int(count.max()) if n_rows else 0
        times.append(t.new_full(shape, torch.nan).index_put((row, place), t[own]))
        states.append(tuple([p.new_full((*shape, *p.shape[1:]), torch.nan).index_put((row, place), p[own]) for p in y]))
    return tuple(times), tuple(states)
