"""What a solve cost: function evaluations, steps, rejections, and which engine served it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class SolveStats:
    """The account of one solve.

    Attributes:
        method: name of the method.
        direction: ``"forward"``, or ``"backward"`` for the solve or sweep of a gradient.
        engine: what served: ``"compiled"`` (the whole solve of a compiled field in one native call), the step loop with
            the kernels ``"cuda"``, ``"native"`` or ``"reference"``, or ``"autograd"`` (the step loop with a tape).
        reason: why the fastest engine did not serve, or ``""``. For a compiled field that the step loop solved it
            begins with ``"not native:"`` and names the option, the kind of state or method, or what the compiler
            refused.
        n_func: evaluations of the vector field.
        n_steps: attempted steps; ``n_accepted + n_rejected``.
        n_idle: attempts that were queued on a device beyond the end of the solve, before the host knew of it; they
            change nothing and their evaluations are not in ``n_func``.
        cuda_graph: of an ``odeint`` on a device whose field the host calls: ``"captured"`` if its attempts were
            repeated as a CUDA graph, or why they were not; ``""`` for other solves.
        t, dt: time reached, and the step size that would come next (0 for fixed grids), in units of t.
    """

    method: str = ""
    direction: str = "forward"
    engine: str = ""
    reason: str = ""
    n_func: int = 0
    n_accepted: int = 0
    n_rejected: int = 0
    n_idle: int = 0
    cuda_graph: str = ""
    t: float = 0.0
    dt: float = 0.0

    @property
    def n_steps(self) -> int:
        """Attempted steps."""
        return self.n_accepted + self.n_rejected


class StatsLog(list[SolveStats]):
    """The solves of a ``with fastode.stats()`` block, in order of their start."""

    @property
    def n_func(self) -> int:
        """Evaluations of the field in all solves."""
        return sum(s.n_func for s in self)

    @property
    def n_steps(self) -> int:
        """Attempted steps in all solves."""
        return sum(s.n_steps for s in self)


#: open logs by identity, each with the thread that opened it
_logs: dict[int, tuple[int, StatsLog]] = {}
_last: ContextVar[SolveStats | None] = ContextVar("fastode_last_stats", default=None)


@contextmanager
def stats() -> Iterator[StatsLog]:
    """Record the cost of every solve of this thread in the block, backward passes included.

    Example:
        >>> with fastode.stats() as log:
        ...     odeint(func, y0, t)
        >>> log[0].n_func, log[0].n_accepted, log[0].engine
    """
    log = StatsLog()
    _logs[id(log)] = (threading.get_ident(), log)
    try:
        yield log
    finally:
        del _logs[id(log)]


def last_stats() -> SolveStats | None:
    """The account of the most recent solve of this thread, or None."""
    return _last.get()


def new_stats(method: str, direction: str = "forward") -> SolveStats:
    """Open the account of a solve and hand it to every open log of this thread."""
    entry = SolveStats(method, direction)
    _last.set(entry)
    if _logs:
        here = threading.get_ident()
        # a device's backward pass runs in a thread of the autograd engine, not Python's; for whom, is unknown
        anyone = direction == "backward" and isinstance(threading.current_thread(), threading._DummyThread)
        for opener, log in tuple(_logs.values()):
            if anyone or opener == here:
                log.append(entry)
    return entry
