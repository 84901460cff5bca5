"""How long a command with ``--out`` may go on starting things."""

from __future__ import annotations

import time


class Budget:
    """Minutes from now on.

    Attributes:
        minutes: how many there are in all.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds; 0 when they are spent."""
        return max(0.0, self._end - time.monotonic())

    @property
    def spent(self) -> bool:
        """Whether nothing new may start."""
        return not self.left

    @property
    def reason(self) -> str:
        """Why something was left out then."""
        return f"the budget of {self.minutes:g} minutes was spent (--budget)"
