"""The tests marked ``gpu``, in a process of their own, and what became of each."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from . import processes
from .budget import Budget
from .parts import Findings

#: seconds for all of them
LIMIT = 240.0
COMMAND = (sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider")
_VERDICT = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
_STARTED = re.compile(r"^(tests/\S+::\S.*?)\s*\Z", re.MULTILINE)
#: after these every later call of a process fails
_FAULTS = ("illegal memory access", "unspecified launch failure", "device-side assert", "misaligned address")
_BAD = ("FAILED", "ERROR", "XPASS")


def run_tests(folder: Path, budget: Budget, command: Sequence[str] = COMMAND, limit: float = LIMIT) -> Findings:
    """Run them; their output goes to ``tests.txt`` as it comes."""
    output = folder / "tests.txt"
    reason = processes.run(command, output, min(limit, budget.left))
    return read(output.read_text(errors="replace"), reason)


def read(output: str, reason: str) -> Findings:
    """What became of the tests, from what pytest printed.

    Args:
        reason: why its process did not end well, or an empty string.
    """
    verdicts = dict(_VERDICT.findall(output))
    counts = Counter(verdicts.values())
    bad = [f"{name}: {verdict.lower()}" for name, verdict in verdicts.items() if verdict in _BAD]
    # status 1 is that of failed tests, which are named
    failed = bool(bad) or bool(reason)
    if reason and not (bad and reason == "exit status 1"):
        last = output.rstrip().splitlines()[-1] if output.strip() else "no output"
        under_way = _STARTED.search(output.rstrip())
        bad.append(f"pytest: {reason}: " + (f"during {under_way[1]}" if under_way else last))
    if fault := next((f for f in _FAULTS if f in output), ""):
        bad.append(f"a kernel faulted ({fault}): tests after the first failure may have failed for that reason alone")
    if not verdicts and not reason:
        bad, failed = ["pytest found no test"], True
    lines = [", ".join(f"{n} {verdict.lower()}" for verdict, n in counts.items()) or "No test came to its end.", ""]
    lines += [f"- {verdict.lower()}: `{name}`" for name, verdict in verdicts.items()]
    return Findings("\n".join(lines), bad, failed)
