"""Why a solve is not native."""

from __future__ import annotations

from ..errors import CannotCompile


class NotServed(Exception):
    """The native engine does not solve this; the text says why."""


class Draws(CannotCompile):
    """The field draws random numbers."""


class NoRule(Exception):
    """A program cannot have this operator as it is used; the text goes on after its name."""
