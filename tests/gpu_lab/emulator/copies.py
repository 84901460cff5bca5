"""The copies that a block has begun and not waited for."""

from __future__ import annotations

from collections.abc import Callable


class Copies:
    """One list for each group that was committed, and an open list of those that no group has yet."""

    def __init__(self) -> None:
        self.open: list[Callable[[], None]] = []
        self.groups: list[list[Callable[[], None]]] = []

    def forget(self) -> None:
        self.open, self.groups = [], []

    def commit(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def arrive(self, but: int) -> None:
        """Carries out all groups but the last ``but``."""
        while len(self.groups) > but:
            for copy in self.groups.pop(0):
                copy()
