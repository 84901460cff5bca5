"""Where the time of three solves goes: a field in Python, a compiled field, and a training step of a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

import fastode
from fastode.nn import CNF

from .launches import kernels_in
from .measure import timed
from .parts import Findings
from .problems import MLPField, seeded, state
from .report import markdown_table, number

TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}
#: kernels, or operators on a CPU, in the table of the report and in that of ``profile.txt``
SHOWN, LISTED = 6, 40
SUMMARY = ("solve", "engine", "ms", "attempted steps", "launches", "launches per step", "device busy")
Call = Callable[[], Any]


def solves(device: str, tiny: bool) -> dict[str, Call]:
    """What is profiled."""
    batch, hidden, end = (3, 4, 1.0) if tiny else (2048, 64, 10.0)
    y0, t = state(batch, 2).to(device), torch.tensor([0.0, end], device=device)
    field = seeded(lambda: MLPField(2, hidden)).to(device)
    compiled = fastode.compile(field)
    flow = CNF(seeded(lambda: MLPField(2, hidden)).to(device), 2)

    def solve(func: torch.nn.Module) -> Any:
        with torch.no_grad():
            return fastode.odeint(func, y0, t, **TOLERANCES)

    def train() -> None:
        flow.zero_grad()
        (-flow.log_prob(y0).mean()).backward()

    name = f"{batch}-2-{hidden}"
    return {
        f"odeint {name}, a field in Python": lambda: solve(field),
        f"odeint {name}, compiled": lambda: solve(compiled),
        f"training step of a CNF {name}": train,
    }


def profile_all(
    folder: Path, device: str, tiny: bool, note: Callable[[Findings], None], calls: dict[str, Call] | None = None
) -> Findings:
    """``profile.txt`` and ``trace.json``; what was found goes to ``note`` after each solve.

    Args:
        calls: what is profiled; None for :func:`solves`.
    """
    found = Findings()
    summary: list[list[str]] = []
    tables: list[str] = []
    done: dict[str, Call] = {}
    (folder / "profile.txt").write_text("")
    for name, call in (calls or solves(device, tiny)).items():
        try:
            line, table, listing = _profiled(name, call, device)
        except Exception as error:  # the other solves are worth having
            found.problems.append(f"{name}: {type(error).__name__}: {error}")
            found.failed = True
        else:
            done[name] = call
            summary.append(line)
            tables += ["", f"{name}:", "", *table]
            with (folder / "profile.txt").open("a") as file:
                file.write(f"{name}\n{listing}\n\n")
        columns = SUMMARY if device == "cuda" else SUMMARY[:4]
        found.text = "\n".join([*markdown_table(columns, summary), *tables])
        note(found)
    with profile(activities=_activities(device)) as seen:
        for name, call in done.items():
            with record_function(name):
                call()
                _wait(device)
    seen.export_chrome_trace(str(folder / "trace.json"))
    return found


def _profiled(name: str, call: Call, device: str) -> tuple[list[str], list[str], str]:
    """A line of the summary, the table of what took most, and the profiler's own table."""
    call()  # compiles kernels
    with fastode.stats() as log:
        call()
    seconds = min(timed(call, 1, device) for _ in range(3))
    with profile(activities=_activities(device)) as seen:
        call()
        _wait(device)
    averages = seen.key_averages()
    forward = [entry for entry in log if entry.direction == "forward"]
    attempts = sum(entry.n_steps + entry.n_idle for entry in forward)
    engines = ", ".join(dict.fromkeys(entry.engine for entry in log))
    line = [name, engines, number(1e3 * seconds), str(attempts)]
    if device == "cuda":
        launched = kernels_in(seen.events())
        busy = 1e-6 * sum(e.self_device_time_total for e in averages if e.device_type == DeviceType.CUDA)
        line += [str(launched), number(launched / max(attempts, 1)), f"{busy / seconds:.0%}"]
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return line, _most(averages, key, device), averages.table(sort_by=key, row_limit=LISTED)


def _most(averages: Sequence[Any], key: str, device: str) -> list[str]:
    """The table of those with the most time, for the report."""
    kind = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    own = sorted((e for e in averages if e.device_type == kind), key=lambda e: -getattr(e, key))
    total = sum(getattr(e, key) for e in own) or 1.0
    lines = [
        [
            f"`{e.key[:80].replace('|', '/')}`",
            str(e.count),
            number(1e-3 * getattr(e, key)),
            f"{getattr(e, key) / total:.0%}",
        ]
        for e in own[:SHOWN]
    ]
    return markdown_table(("kernel" if device == "cuda" else "operator", "calls", "ms", "share"), lines)


def _activities(device: str) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
