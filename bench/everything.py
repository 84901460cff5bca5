"""``python -m bench --out DIR``: everything that there is to find out about a machine, in one folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .budget import Budget
from .cases import all_cases
from .cases_apart import run_all
from .contest import Case, StepCounts
from .gpu_tests import run_tests
from .machine import environment
from .measure import Row
from .options import Options, findings_of
from .out_report import write
from .parts import Findings, Part, run_parts
from .report import from_json, left_out, report, slower_engines

#: seconds after which these parts start nothing new
PROFILE, TUNING = 90.0, 150.0
TESTS, PROFILES, BLOCKS, CASES = "Tests on the GPU", "Where time goes", "Block sizes", "Beside other libraries"


def run_everything(
    folder: Path, options: Options, threads: Sequence[int], only: str, minutes: float, arguments: Sequence[str]
) -> int:
    """Run all parts and write their report; 1 if one failed, a target was missed or a row refused."""
    folder = folder.resolve()
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for name in ("rows.jsonl", "tests.txt", "profile.txt", "trace.json"):
        (folder / name).touch()
    facts, budget = environment(options.device), Budget(minutes)
    command = shlex.join(["python", "-m", "bench", *arguments])
    outcomes = run_parts(
        _parts(folder, options, threads, only, facts),
        budget,
        lambda so_far: write(folder / "report.md", facts, command, so_far),
    )
    for outcome in outcomes:
        print(f"{outcome.name}: {outcome.state} ({outcome.seconds:.0f} s)", file=sys.stderr)
    print(folder / "report.md")
    return int(any(outcome.findings.problems for outcome in outcomes))


def _parts(folder: Path, options: Options, threads: Sequence[int], only: str, facts: dict[str, object]) -> list[Part]:
    """What tells most comes first; the cases, of which some may be left out, last."""
    no_gpu = "" if options.device == "cuda" else f"Only a GPU has them, and this is --device {options.device}."

    def apart(part: str, seconds: float) -> Part:
        def run(budget: Budget) -> Findings:
            return findings_of(part, folder, _until(options, min(seconds, budget.left)))

        title = {"profile": PROFILES, "tuning": BLOCKS}[part]
        return Part(title, run, no_gpu if part == "tuning" else "")

    tests = Part(TESTS, lambda budget: run_tests(folder, budget), no_gpu)
    if no_gpu:
        (folder / "tests.txt").write_text(f"{no_gpu}\n")
    cases = [case for case in all_cases(options.tiny, options.device) if only in case.name]
    measured = Part(CASES, lambda budget: _measure(cases, folder, options, threads, budget, facts), tells=True)
    return [tests, apart("profile", PROFILE), apart("tuning", TUNING), measured]


def _until(options: Options, seconds: float, threads: int = 1, names: Sequence[str] = ()) -> Options:
    return Options(options.device, options.tiny, options.quick, threads, seconds, list(names))


def _measure(
    cases: Sequence[Case],
    folder: Path,
    options: Options,
    threads: Sequence[int],
    budget: Budget,
    facts: dict[str, object],
) -> Findings:
    """All cases with every number of threads, and their tables."""
    wrong: dict[str, str] = {}
    for turn, count in enumerate(threads or [torch.get_num_threads()]):
        names = [c.name for c in cases if not c.missing and not (turn and (c.once or c.threads))]

        def command(left: Sequence[str], count: int = count) -> list[str]:
            return _until(options, budget.left, count, left).command("cases", folder)

        found = run_all(names, command, folder, budget)
        wrong |= {f"{name} on {count} threads" if turn else name: reason for name, reason in found.items()}
    results = [from_json(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    text = report(results, facts, markdown=True)
    if missing := left_out(cases):
        text += f"\n\n{missing}"
    problems = [f"{name}: {reason}" for name, reason in wrong.items()]
    problems += [f"refused: {row.case}: {row.refused}" for row in results if row.refused]
    problems += [_missed(row) for row in results if isinstance(row, Row) and row.met is False]
    if options.device == "cuda" and (slower := slower_engines(results)):
        text += "\n\nNot served by the fastest engine:\n\n" + "\n".join(f"- {line}" for line in slower)
    return Findings(text, problems, bool(wrong))


def _missed(row: Row | StepCounts) -> str:
    assert isinstance(row, Row) and row.ratio is not None and row.ours is not None
    return (
        f"missed: {row.case}: {row.target}; the ratio is {row.ratio.median:.3g}, ours {row.ours.median:.3g} {row.unit}"
    )
