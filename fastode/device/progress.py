"""What the host gets to know of a solve on the device: rarely, and copied while the device works on."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from ..kernels.triton import DeviceState, poll

#: attempts queued at most before the host looks. Waiting drains the queue (some 10 us); an attempt queued after the end
#: is work for nothing.
MOST_ATTEMPTS = 8


class Progress:
    """Asks a solve how far it is.

    Attributes:
        accepted: steps of all rows, when it was asked last.
    """

    accepted = 0

    def __init__(self, device: torch.device) -> None:
        self.numbers = torch.zeros(3, dtype=torch.float64, device=device)
        self.pinned = torch.zeros(3, dtype=torch.float64, pin_memory=True) if device.type == "cuda" else self.numbers

    def ask(self, state: DeviceState) -> tuple[int, int]:
        """How many rows run on, and how many attempts to queue before asking again; waits for the device.

        A step may be twice as long as the one before it without an attempt being queued in vain.
        """
        poll(state, self.numbers)
        if self.pinned is not self.numbers:
            self.pinned.copy_(self.numbers, non_blocking=True)
            torch.cuda.current_stream(self.numbers.device).synchronize()
        running, steps, accepted = self.pinned.tolist()
        self.accepted = int(accepted)
        return int(running), attempts_for(steps)


class Keeping(Protocol):
    """What keeps accepted steps, see :class:`fastode.device.kept.KeptSteps`."""

    def make_room(self, attempts: int) -> None: ...

    def collect(self, accepted: int) -> None: ...


def queue_attempts(queue: Callable[[int], None], state: DeviceState, kept: Keeping | None = None) -> int:
    """``queue(count)`` attempts until no row runs on, looking after each time; how many were queued."""
    progress = Progress(state.reals.device)
    queued = 0
    while True:
        running, count = progress.ask(state)
        if kept is not None and queued:
            kept.collect(progress.accepted)
        if not running:
            return queued
        if kept is not None:
            kept.make_room(count)
        queue(count)
        queued += count


def attempts_for(steps: float) -> int:
    """How many attempts to queue where ``steps`` of the present size lead to the end."""
    return MOST_ATTEMPTS if not steps < 2.0**MOST_ATTEMPTS else max(1, min(MOST_ATTEMPTS, int(math.log2(1 + steps))))


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Where Triton launches on the tensor's device: its current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def detached(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copies that kernels may overwrite."""
    return tuple([p.detach().clone(memory_format=torch.contiguous_format) for p in parts])
