"""The gradient of the start time where steps must end on given times.

Elsewhere all steps of a solve move with its start. Times on which steps must end (``step_t``, ``jump_t``) stay where
they are, and a field may be another one beyond them. There the state moves instead: a solve that starts later by ``s``
is one that starts at the same time from the state which the flow takes to ``y0`` in ``s``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .gradients.row_times import flow
from .options import Request
from .stats import SolveStats
from .tree import flatten


def from_moved_start(request: Request, solve: Callable[[Request], Any], event: bool = False) -> Any:
    """``solve(request)``, states at some times, with the gradient of the first one.

    Args:
        event: whether it is ``(event_t, states)`` instead.
    """
    if not _start_moves_alone(request):
        return solve(request)
    found = solve(_moved(request))
    event_t, states = found if event else (None, found)
    later, _ = flatten(states)
    # the first state is what was given, whenever that is
    states = request.restore([torch.cat([y[None], p[1:]]) for y, p in zip(request.y0, later, strict=True)])
    return (event_t, states) if event else states


def with_moved_start(request: Request) -> Request:
    """The request whose solution, as a function of time, has the gradient of the start."""
    return _moved(request) if _start_moves_alone(request) else request


def _start_moves_alone(request: Request) -> bool:
    """Whether the start requires grad and steps must end on times that do not move with it."""
    stops = request.adaptive and any(request.options.get(name) is not None for name in ("step_t", "jump_t"))
    return stops and request.t.requires_grad and torch.is_grad_enabled()


def _moved(request: Request) -> Request:
    """The first time constant and its gradient in ``y0``, by one midpoint step of size zero.

    Its slope carries gradients, so that second derivatives are right too. The two evaluations are not counted.
    """
    start = request.t[0].detach()
    moved = flow(request.problem(SolveStats()), None, start, request.y0, start - request.t[0], twice=True)
    return request.with_state(moved, torch.cat([start[None], request.t[1:]]))
