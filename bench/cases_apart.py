"""Cases measured in another process, which is started again after a case that hung or left the GPU unusable."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from . import processes
from .budget import Budget
from .cases import all_cases
from .machine import environment
from .measure import Effort, run_case
from .options import Options
from .report import json_line

#: seconds a case may take, its reference and the compilation of its kernels included
LIMIT = 150.0
#: of all rounds of a case on a GPU, where timings are steadier than on a CPU
GPU_EFFORT = Effort(seconds=2.0)
#: exit status of a process whose GPU can no longer be used
UNUSABLE = 3


def measure(folder: Path, options: Options) -> int:
    """Measure cases until there are no more or the time is up; rows and progress go to files as they come."""
    budget = Budget(options.seconds / 60)
    facts = environment(options.device)
    effort = Effort.quick() if options.quick else GPU_EFFORT if options.device == "cuda" else Effort()
    cases = {case.name: case for case in all_cases(options.tiny, options.device)}
    for name in options.names:
        if budget.spent:
            return 0
        _note(folder, name, "started")
        try:
            row = run_case(cases[name], options.threads, effort)
        except Exception as error:  # the other cases are worth having
            _note(folder, name, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
            if options.device == "cuda" and not _usable():
                return UNUSABLE
            continue
        with (folder / "rows.jsonl").open("a") as file:
            file.write(json_line(row, facts) + "\n")
        _note(folder, name, "done")
    return 0


def _usable() -> bool:
    """Whether the GPU still answers: after a fault in a kernel no later call of the process can succeed."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _note(folder: Path, name: str, state: str) -> None:
    with (folder / "parts" / "progress.jsonl").open("a") as file:
        file.write(json.dumps([name, state]) + "\n")


def run_all(
    names: Sequence[str],
    command: Callable[[Sequence[str]], Sequence[str]],
    folder: Path,
    budget: Budget,
    limit: float = LIMIT,
) -> dict[str, str]:
    """Measure all cases, and say what is wrong with those that gave no row.

    Args:
        command: what measures the cases whose names it gets, as :func:`measure` does.
        limit: seconds a case may take.
    """
    progress, log = folder / "parts" / "progress.jsonl", folder / "parts" / "cases.log"
    wrong: dict[str, str] = {}
    left, reason = list(names), ""
    while left and not budget.spent:
        progress.write_text("")
        watch = _Watch(progress, limit)
        reason = processes.run(command(left), log, budget.left + limit, watch)
        states = dict(_read(progress))
        for name, state in states.items():
            if state == "started":
                state = reason or "its process ended"
                if not reason.startswith("killed"):
                    state += f": {processes.last_line(log)}"
            if state != "done":
                wrong[name] = state
        left = [name for name in left if name not in states]
        if not states or (left and not reason):
            break
        print(f"{len(names) - len(left)} of {len(names)} cases", file=sys.stderr, flush=True)
    why = f"no case was begun: {reason}: {processes.last_line(log)}" if reason and not budget.spent else budget.reason
    return wrong | {name: f"skipped: {why}" for name in left}


def _read(progress: Path) -> list[tuple[str, str]]:
    return [(name, state) for name, state in map(json.loads, progress.read_text().splitlines())]


class _Watch:
    """Says when a case takes too long."""

    def __init__(self, progress: Path, limit: float) -> None:
        self.progress, self.limit = progress, limit
        self.size, self.since = 0, time.monotonic()

    def __call__(self) -> str:
        size = self.progress.stat().st_size
        if size != self.size:
            self.size, self.since = size, time.monotonic()
        if time.monotonic() - self.since > self.limit:
            return f"killed: it took more than {self.limit:.3g} s"
        return ""
