"""Accepted steps of one shared step size, kept for a gradient while the solve runs on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..tree import Parts


class Keeper(Protocol):
    """What hands accepted steps over, see :class:`fastode.device.attempt.Attempt`."""

    y: Parts
    kept: tuple[Parts, Tensor, int] | None


class KeptSteps:
    """One state a step, in chunks as large as what is queued before the host looks."""

    def __init__(self, attempt: Keeper) -> None:
        self.attempt = attempt
        self.chunks: list[Parts] = []
        self.logs: list[Tensor] = []
        self.count = 0

    def make_room(self, attempts: int) -> None:
        """For the steps of the next attempts."""
        states = tuple([p.new_empty((attempts, *p.shape)) for p in self.attempt.y])
        log = states[0].new_empty((attempts, 5), dtype=torch.float64)
        self.attempt.kept = (states, log, self.count)

    def collect(self, accepted: int) -> None:
        """Of those attempts, the steps that were accepted; ``accepted`` are all so far."""
        assert self.attempt.kept is not None
        states, log, before = self.attempt.kept
        n = accepted - before
        # a chunk of which little was needed is copied, to be freed
        little = 2 * n < len(log)
        chunk = [p[:n].clone() if little else p[:n] for p in states]
        self.chunks.append(tuple(chunk))
        self.logs.append(log[:n])
        self.count = accepted

    def states(self) -> list[Parts]:
        """At the starts of the steps."""
        return [parts for chunk in self.chunks for parts in zip(*[p.unbind(0) for p in chunk], strict=True)]

    def numbers(self) -> list[list[float]]:
        """Of each step: start, signed size, end, first output inside and that after the last; waits for the device."""
        found: list[list[float]] = torch.cat(self.logs).tolist() if self.logs else []
        return found
