"""What can go wrong, as exception classes.

torchdiffeq raises ``AssertionError`` for most of its failures. Code that catches it must keep working, so the
classes below are what the field would expect (``ValueError`` for arguments, ``SolverError`` for a solve that failed)
*and* ``AssertionError`` where torchdiffeq asserts.
"""

from __future__ import annotations


class SolverError(RuntimeError):
    """A solve could not be finished."""


class StepSizeUnderflow(SolverError, AssertionError):
    """The step size fell below the spacing of floating-point numbers at the current time."""


class NonFiniteState(SolverError, AssertionError):
    """The state holds a NaN or an infinity."""


class TooManySteps(SolverError, AssertionError):
    """A limit on the number of steps was reached."""


class InvalidArgument(ValueError, AssertionError):
    """An argument has the wrong value, shape or form."""


class UnsupportedInput(TypeError):
    """A tensor of a kind that this path cannot integrate (fake, meta, batched by vmap, sparse)."""


class FieldError(TypeError, ValueError):
    """The vector field returned something that is not the derivative of the state."""


class CannotCompile(InvalidArgument):
    """A vector field that cannot be turned into a field program.

    Attributes:
        operator: the operator that has no place in a program, such as ``aten.mean.dim``; ``None`` if it is not one.
        line: where the field calls it, ``"file.py:123: code"``; ``None`` if that is not known.
        reason: why, without operator and line.

    Not a ``TypeError``: Python's operators on tensors would swallow it.
    """

    def __init__(self, reason: str, operator: str | None = None, line: str | None = None) -> None:
        self.reason = reason
        self.operator = operator
        self.line = line
        what = f"`{operator}` " if operator else ""
        super().__init__(f"the field cannot be compiled: {what}{reason}" + (f"\n  at {line}" if line else ""))


def did_you_mean(name: str, known: list[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known name, or nothing."""
    from difflib import SequenceMatcher, get_close_matches

    close = sorted(get_close_matches(name, known, n=max(len(known), 1)))
    best = max(close, key=lambda other: SequenceMatcher(None, other, name).ratio(), default=None)
    return f" Did you mean {best!r}?" if best else ""
