"""What a step costs beside its arithmetic: kernels launched on a GPU, and how often the host waits for it.

A long solve less a short one, so that what a solve does once drops out, and less the field's own kernels; by attempted
step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .problems import Counted

#: evaluations of an attempt of dopri5
EVALUATIONS = 6
#: a kernel and a copy, by which the host looks how far a solve is
LAUNCHES_OF_A_LOOK = 2
#: ends of the short and the long solve
ENDS = (1.0, 3.0)

#: ``solve(field, end)``, the field being a bare function: one with callbacks would be solved differently
Solve = Callable[[Callable[..., Tensor], float], Any]


@dataclass(frozen=True)
class PerStep:
    """Of one library, for each attempted step; the looks of fastode every few steps are only in ``looks``."""

    launches: float
    waits: float
    looks: float


def kernels_in(events: Iterable[Any]) -> int:
    """Of what a profiler saw, the work of a device: kernels, copies and fills."""
    return sum(e.device_type == DeviceType.CUDA and not e.is_user_annotation for e in events)


def launches(call: Callable[[], Any]) -> int:
    """Kernels, copies and fills of a call.

    Raises:
        RuntimeError: the profiler saw none.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Profiler clears events")  # torch 2.11; there is but one cycle
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            call()
            torch.cuda.synchronize()
    if not (found := kernels_in(seen.events())):
        raise RuntimeError("torch.profiler saw no kernel: CUPTI is missing here, or may not be used")
    return found


def waits(call: Callable[[], Any]) -> int:
    """How often a call makes the host wait, as torch notes it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("called a synchronizing" in str(w.message) for w in seen)


@contextmanager
def counting_looks() -> Iterator[list[int]]:
    """Counts how often fastode asks the device how far a solve is; torch does not note that it waits then."""
    from fastode.device.progress import Progress

    ask, seen = Progress.ask, [0]

    def counted(self: Progress, state: Any) -> tuple[int, int]:
        seen[0] += 1
        mode = torch.cuda.get_sync_debug_mode()
        if not mode:
            return ask(self, state)
        torch.cuda.set_sync_debug_mode("default")
        try:
            return ask(self, state)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    with mock.patch.object(Progress, "ask", counted):
        yield seen


def per_step(
    field: torch.nn.Module,
    solve: Solve,
    launches: Callable[[Callable[[], Any]], int],
    waits: Callable[[Callable[[], Any]], int],
    own_launches: int,
) -> PerStep:
    """Of one library.

    Args:
        launches, waits: count those of a call.
        own_launches: of one evaluation of the field.
    """
    found = []
    for end in ENDS:
        counted = Counted(field)
        with counting_looks() as looks:

            def call(counted: Counted = counted, end: float = end) -> Any:
                return solve(counted.forward, end)

            call()  # compiles kernels, and may measure torch
            counted.evaluations[0] = looks[0] = 0
            queued = launches(call)
            evaluations, looked = counted.evaluations[0], looks[0]
            waited = waits(call)
        others = queued - own_launches * evaluations - LAUNCHES_OF_A_LOOK * looked
        found.append((evaluations / EVALUATIONS, others, waited, looked))
    attempts, *numbers = (long - short for short, long in zip(*found, strict=True))
    return PerStep(*[number / attempts for number in numbers])
