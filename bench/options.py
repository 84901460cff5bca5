"""What a part of a command with ``--out`` is told, and what it leaves, when it runs in a process of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import processes
from .parts import Findings


@dataclass(frozen=True)
class Options:
    """What a part is told.

    Attributes:
        seconds: after which it starts nothing new.
        names: of the cases to measure.
    """

    device: str = "cpu"
    tiny: bool = False
    quick: bool = False
    threads: int = 1
    seconds: float = 0.0
    names: list[str] = field(default_factory=list)

    def command(self, part: str, folder: Path) -> list[str]:
        """What runs the part in a new process."""
        return [sys.executable, "-m", "bench.child", part, str(folder), json.dumps(asdict(self))]


#: seconds between the warning to start nothing new and the end of a process, for what it has begun
GRACE = 60.0


def findings_of(part: str, folder: Path, options: Options) -> Findings:
    """Run a part that leaves findings, and give what it left, also where it did not come to its end."""
    log, left = folder / "parts" / f"{part}.log", folder / "parts" / f"{part}.json"
    reason = processes.run(options.command(part, folder), log, options.seconds + GRACE)
    found = Findings(**json.loads(left.read_text())) if left.exists() else Findings()
    if reason:
        found.failed = True
        # status 1 is that of problems that are named
        if not found.problems or reason != "exit status 1":
            found.problems.append(f"{reason}: {processes.last_line(log)}")
    return found


def leave(part: str, folder: Path, findings: Findings) -> None:
    """Write what was found so far where :func:`findings_of` reads it."""
    (folder / "parts" / f"{part}.json").write_text(json.dumps(asdict(findings)))
