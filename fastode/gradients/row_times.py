"""Gradients of times, by the flow: of spans, evaluations and events of rows, and of the start that all rows share.

A state at ``t`` moves along the flow when ``t`` does, and a solve that starts later from the same state is one that
starts at the same time from a state a little upstream. So these gradients need one evaluation of the field at the
states in question (two for second derivatives), and none of the steps.

Event times: the implicit function theorem, as Newton's iteration on ``c(t + s, flow_s(y)) = 0`` from ``s = 0``: one
iteration has the right first derivatives, two the right second ones.
Reference: Chen, Amos, Nickel, "Learning neural event functions for ordinary differential equations", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.reference import per_row
from ..problem import Problem
from ..rows.events import Event, event_value
from ..tree import Parts


def shift_of(t: Tensor) -> Tensor:
    """Zeros with the gradient of ``t``."""
    return torch.where(t.isnan(), 0.0, t - t.detach())


def flow(problem: Problem, rows: Tensor | None, t: Tensor, y: Parts, s: Tensor, twice: bool) -> Parts:
    """The states ``y`` of ``rows`` (None for all) at ``t``, moved along the field by ``s``, which is zero.

    Args:
        t, s: of each row, or 0-dim for a solve whose rows share the time.
        twice: whether second derivatives are right too: one midpoint step instead of one Euler step whose slope is
            constant.
    """
    field = problem.field if rows is None else problem.field.take_rows(rows, y)
    if not twice:
        with torch.no_grad():
            slope = field(problem.time(t), y)
        return _along(y, s, slope)
    middle = _along(y, s / 2, field(problem.time(t), y))
    return _along(y, s, field(problem.time(t + s / 2), middle))


def _along(y: Parts, s: Tensor, slope: Parts) -> Parts:
    moved = []
    for p, k in zip(y, slope, strict=True):
        # a row that fails at once has no slope, and stays where it is
        moved.append(p + per_row(s, p) * torch.where(k.isfinite(), k, 0.0))
    return tuple(moved)


def event_shifts(
    problem: Problem,
    events: Sequence[Event],
    which: Tensor,
    rows: Tensor,
    t: Tensor,
    y: Parts,
    twice: bool,
) -> Tensor:
    """Zeros [N] with the gradients of the times of events.

    Args:
        which, rows: [N] of which function and of which row.
        t: [N] float64; y: the states there, which carry gradients.
    """
    shifts = torch.zeros_like(t)
    for e in range(len(events)):
        here = (which == e).nonzero().squeeze(1)
        if not len(here):
            continue
        own, at, states = rows[here], t[here], tuple([p[here] for p in y])
        c = event_value(events, e, problem, at, states, own)
        if not c.requires_grad:
            continue
        s = torch.zeros_like(at, requires_grad=True)
        if twice:
            moved = s
            for _ in range(2):
                c = event_value(events, e, problem, at + moved, flow(problem, own, at, states, moved, True), own)
                (slope,) = torch.autograd.grad(c.sum(), moved, create_graph=True)
                moved = moved - (c / slope).to(moved.dtype)
        else:
            constant = tuple([p.detach() for p in states])
            ahead = event_value(events, e, problem, at + s, flow(problem, own, at, constant, s, False), own)
            (slope,) = torch.autograd.grad(ahead.sum(), s)
            moved = -(c / slope).to(at.dtype)
        shifts = shifts.index_copy(0, here, moved - moved.detach())
    return shifts
