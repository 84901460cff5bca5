"""Why a program has no fused kernel."""

from __future__ import annotations


class NotFused(Exception):
    """A program, or a solve of it, that no fused kernel serves.

    Attributes:
        reason: what stands in the way, and how wide it is.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"no fused GPU kernel: {reason}")
