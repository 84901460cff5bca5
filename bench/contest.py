"""What is compared: two libraries on one problem, and when a number may be printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

#: fastode's error may be this many times the peer's before its speed is no longer printed
ERROR_FACTOR = 1.5
#: the same rule takes steps that differ by rounding only: forward evaluations may differ by this fraction
NFE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Target:
    """A number to be reached: ``"ratio"`` at least (the peer's time over ours, or our rate over the peer's), or
    ``"value"`` at most (ours).
    """

    kind: Literal["ratio", "value"]
    bound: float

    def met(self, ratio: float, value: float) -> bool:
        """Whether it was reached."""
        return ratio >= self.bound if self.kind == "ratio" else value <= self.bound

    def __str__(self) -> str:
        return f">= {self.bound:g}x" if self.kind == "ratio" else f"<= {self.bound:g}"


@dataclass(frozen=True)
class Side:
    """One library's way to the result.

    Attributes:
        label: what is called, as it is printed.
        run: the call that is timed; takes the field.
        result: its value as one float64 vector, for the error.
        served_by: fastode's engine that has to serve, or an empty string for whichever does.
    """

    label: str
    run: Callable[[nn.Module], Any]
    result: Callable[[Any], Tensor]
    served_by: str = ""


@dataclass(frozen=True)
class Contest:
    """Two libraries on one problem.

    Attributes:
        field: the vector field both get.
        peer: torchdiffeq or another library; ours: ways of fastode to the same result, of which the fastest that
            may be compared competes.
        reference: the result in float64 at a tight tolerance.
        bare: the field's calls alone; its time is subtracted from both, and the rest divided by the steps.
        forward: what our evaluations in the forward pass may be: as many as the peer's, or any.
        backward: the same of the backward pass, or at most as many.
        yardstick: another of the peer's ways to the result. Gradients by the continuous adjoint and by autograd err
            differently at one tolerance; ours is held to the larger of the two errors.
        samples: how many samples the result holds, if their errors are to be compared one by one; None takes the
            result as one vector.
        device: where all tensors are; a timing waits for it.
    """

    field: nn.Module
    peer: Side
    ours: tuple[Side, ...]
    reference: Callable[[], Tensor]
    bare: Callable[[int], None] | None = None
    forward: Literal["equal", "any"] = "equal"
    backward: Literal["equal", "at most", "any"] = "equal"
    yardstick: Side | None = None
    samples: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Count:
    """Two numbers of some other kind than the times of a contest.

    Attributes:
        measure: gives ``(peer, ours)``.
        unit: of both.
        peer, ours: their labels.
        rate: whether more is better: the ratio is ours over the peer's then.
    """

    measure: Callable[[], tuple[float, float]]
    unit: str
    peer: str
    ours: str
    rate: bool = False


@dataclass(frozen=True)
class Tally:
    """One library on one batch.

    Attributes:
        mean, most: attempted steps of a sample.
        made: evaluations for a sample, also those after it has finished.
    """

    mean: float
    most: int
    made: float


@dataclass(frozen=True)
class StepCounts:
    """One line of the table of steps.

    Attributes:
        needed: evaluations that a sample takes, in the mean, if it is solved alone.
        tallies: by library; without those that are not installed.
        compared: samples that were solved alone; same: of them, those that took as many steps and evaluations as in the
            batch.
        refused: what is wrong, or an empty string.
    """

    case: str
    needed: float
    tallies: dict[str, Tally]
    compared: int
    same: int
    refused: str


@dataclass(frozen=True)
class Case:
    """A line of the table.

    Attributes:
        build: makes the contest, or counts, when its turn comes. Of a case that runs on any device it is a partial
            function with the keyword ``device``.
        once: whether one number of threads is enough.
        share: of the seconds that a case is measured for.
        missing: why it cannot be run here, or an empty string.
        threads: the number of threads it is measured with whatever was asked for; such a case is measured once.
        rounds: the number of rounds, at most, for a case whose calls take seconds: one call a round, and the counted
            call is all that warms up. None measures for some seconds.
    """

    name: str
    build: Callable[[], Contest | Count | StepCounts]
    target: Target | None = None
    once: bool = False
    share: float = 1.0
    missing: str = ""
    threads: int | None = None
    rounds: int | None = None
