"""``report.md``: the machine, what became of each part, what went wrong, and everything that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .parts import Outcome
from .report import markdown_table

FILES = (
    ("rows.jsonl", "every row with its environment, one JSON object a line"),
    ("tests.txt", "what pytest printed"),
    ("profile.txt", "the profiler's own tables"),
    ("trace.json", "the profiled solves in time, for chrome://tracing or ui.perfetto.dev"),
    ("parts/", "what each process printed"),
)


def write(path: Path, facts: dict[str, Any], command: str, outcomes: Sequence[Outcome]) -> None:
    """Write the report of the parts so far.

    Args:
        facts: as :func:`bench.machine.environment` gives them.
    """
    lines = ["# fastode: report of a machine", "", *_machine(facts, command), "", "## Parts", ""]
    lines += markdown_table(("part", "", "seconds"), [[o.name, o.state, f"{o.seconds:.0f}"] for o in outcomes])
    lines += ["", "## Refused, missed, failed, left out", ""]
    problems = [f"- {o.name}: {problem}" for o in outcomes for problem in o.findings.problems]
    lines += problems or ["Nothing."]
    for outcome in outcomes:
        lines += ["", f"## {outcome.name}", "", outcome.findings.text or f"No result: {outcome.state}."]
    lines += ["", "## Files", "", *[f"- `{name}`: {what}" for name, what in FILES]]
    # whoever reads it while parts are running finds a whole one
    draft = path.with_suffix(".tmp")
    draft.write_text("\n".join(lines) + "\n")
    draft.replace(path)


def _machine(facts: dict[str, Any], command: str) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = facts["device"] or f"{facts['cpu']}, {facts['instruction_set']}, load {facts['load']}"
    return [
        f"- machine: {machine}",
        f"- host: {facts['machine']}",
        f"- versions: Python {facts['python']}, {versions}",
        f"- fastode {facts['fastode']} at {facts['commit']}",
        f"- command: `{command}`",
        f"- begun: {facts['date']}",
    ]
