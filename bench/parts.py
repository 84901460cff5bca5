"""The parts of a command with ``--out``: each is run, and what came of it kept, whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .budget import Budget


@dataclass
class Findings:
    """What a part found.

    Attributes:
        text: Markdown, for the report.
        problems: what went wrong or was left out, a line each; of a part that does all it should, none.
        failed: whether that is a failure of the part, and not a target that was missed or a row that was refused.
    """

    text: str = ""
    problems: list[str] = field(default_factory=list)
    failed: bool = False


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        name: its title in the report.
        run: does it.
        absent: why there is none here, or an empty string.
        tells: whether it says itself what it left out for want of time, and so is run even then.
    """

    name: str
    run: Callable[[Budget], Findings]
    absent: str = ""
    tells: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a part: ``"done"``, ``"failed"``, ``"skipped"`` for want of time, or ``"absent"``."""

    name: str
    state: str
    seconds: float
    findings: Findings


def run_parts(parts: Sequence[Part], budget: Budget, note: Callable[[Sequence[Outcome]], None]) -> list[Outcome]:
    """All parts in turn.

    Args:
        note: gets all outcomes so far after each part.
    """
    outcomes: list[Outcome] = []
    for part in parts:
        start = time.monotonic()
        state, findings = _outcome(part, budget)
        outcomes.append(Outcome(part.name, state, time.monotonic() - start, findings))
        note(outcomes)
    return outcomes


def _outcome(part: Part, budget: Budget) -> tuple[str, Findings]:
    if part.absent:
        return "absent", Findings(part.absent)
    if budget.spent and not part.tells:
        return "skipped", Findings(problems=[f"skipped: {budget.reason}"], failed=True)
    try:
        findings = part.run(budget)
    except Exception as error:  # whatever it is, the other parts are worth having
        return "failed", Findings(problems=[f"{type(error).__name__}: {error}"], failed=True)
    return "failed" if findings.failed else "done", findings
