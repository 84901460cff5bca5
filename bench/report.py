"""Results as tables for a terminal, as Markdown, and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .contest import Case, StepCounts, Tally
from .costs import Cost
from .measure import Row, Spread

COLUMNS = (
    "case", "thr", "torchdiffeq", "fastode", "unit", "ratio", "20-80 %", "target", "met", "NFE", "steps", "error"
)  # fmt: skip
#: of a GPU: the host's threads do not matter, and which engine served does
GPU_COLUMNS = ("case", "engine", *COLUMNS[2:])

STEP_COLUMNS = (
    "case", "steps: fastode", "torchode", "torchdiffeq",
    "evaluations: needed", "fastode", "torchode", "torchdiffeq", "as alone"
)  # fmt: skip

STEP_CAPTION = (
    "Attempted steps of a sample, mean / most (torchdiffeq: of the batch); evaluations by sample: those it needs if it "
    "is solved alone, and those each library makes, with the share beyond these. As alone: of the samples solved "
    "alone, those with the same steps, rejections and evaluations as in the batch. All must, but in the neural field, "
    "whose own float32 products round differently in a batch of another size."
)


def number(x: float) -> str:
    """Three significant digits, never in exponent form where that can be helped."""
    if x == 0 or not abs(x) < float("inf"):
        return f"{x:g}"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def cells(row: Row, gpu: bool = False) -> list[str]:
    """One line of the table, as strings under :data:`COLUMNS` or :data:`GPU_COLUMNS`."""
    met = {None: "", True: "yes", False: "NO"}[row.met]
    numbers = [_median(row.peer), _median(row.ours), row.unit, "refused", ""]
    if row.ratio is not None:
        numbers[3:] = [f"{number(row.ratio.median)}x", f"{number(row.ratio.low)}-{number(row.ratio.high)}"]
    name = f"{row.case} ({row.our_label})"
    costs = [_pair(row, evaluations), _pair(row, lambda c: str(c.steps)), _pair(row, error)]
    engine = row.our_cost.engine if row.our_cost else ""
    return [name, engine if gpu else str(row.threads), *numbers, row.target, met, *costs]


def evaluations(cost: Cost) -> str:
    """Forward evaluations, and backward ones where there are any."""
    return f"{cost.nfe}+{cost.nfe_backward}" if cost.nfe_backward else str(cost.nfe)


def error(cost: Cost) -> str:
    """The error, and in parentheses that of the worst sample where each was compared."""
    return f"{cost.error:.1e}" if cost.worst is None else f"{cost.error:.1e} ({cost.worst:.1e})"


def _pair(row: Row, show: Any) -> str:
    if row.peer_cost is None or row.our_cost is None:
        return ""
    return f"{show(row.peer_cost)} / {show(row.our_cost)}"


def _median(spread: Spread | None) -> str:
    return "" if spread is None else number(spread.median)


def step_cells(counts: StepCounts) -> list[str]:
    """One line of the table of steps, as strings under :data:`STEP_COLUMNS`."""
    libraries = ("fastode", "torchode", "torchdiffeq")
    tallies = [counts.tallies.get(library) for library in libraries]
    steps = ["" if t is None else str(t.most) if t.mean == t.most else f"{t.mean:.1f} / {t.most}" for t in tallies]
    made = ["" if t is None else f"{number(t.made)} ({1 - counts.needed / t.made:.0%})" for t in tallies]
    return [counts.case, *steps, number(counts.needed), *made, f"{counts.same} of {counts.compared}"]


def report(results: Sequence[Row | StepCounts], environment: dict[str, Any], markdown: bool) -> str:
    """The table of speeds and that of steps, as far as there are any, with their captions."""
    show = markdown_table if markdown else _text
    rows = [r for r in results if isinstance(r, Row)]
    counts = [r for r in results if isinstance(r, StepCounts)]
    parts = []
    gpu = bool(environment.get("device"))
    if rows:
        table = show(GPU_COLUMNS if gpu else COLUMNS, [cells(r, gpu) for r in rows])
        parts.append([*table, "", caption(environment)])
    if counts:
        parts.append([*show(STEP_COLUMNS, [step_cells(c) for c in counts]), "", STEP_CAPTION])
    parts.append([f"refused: {r.case}: {r.refused}" for r in results if r.refused])
    return "\n\n".join("\n".join(part) for part in parts if part)


def _text(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    shown = ["  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [shown[0], "  ".join("-" * w for w in widths), *shown[1:]]


def markdown_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *cells]]


def caption(environment: dict[str, Any]) -> str:
    """What the numbers were measured on."""
    e = environment
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    machine = e["device"] or f"{e['cpu']} ({e['machine']}), {e['instruction_set']}, load {e['load']}"
    return (
        f"{machine}, {versions}, fastode {e['fastode']} at {e['commit'][:10]}, {e['date']}. Medians of alternating "
        "rounds; "
        "NFE (forward+backward), steps and relative error (that of the worst sample) as torchdiffeq / fastode, or as "
        "another peer where the case names one."
    )


def left_out(cases: Sequence[Case]) -> str:
    """One line for each reason why cases could not be run here."""
    reasons: dict[str, list[str]] = {}
    for case in cases:
        if case.missing:
            reasons.setdefault(case.missing, []).append(case.name)
    return "\n".join(f"left out: {'; '.join(names)}: {reason}" for reason, names in reasons.items())


def slower_engines(rows: Sequence[Row | StepCounts]) -> list[str]:
    """Which cases the fastest engine did not serve, and why."""
    costs = [(row.case, row.our_cost) for row in rows if isinstance(row, Row) and row.our_cost]
    return [f"{case}: served by {cost.engine}: {cost.reason}" for case, cost in costs if cost.reason]


def from_json(line: str) -> Row | StepCounts:
    """The row that :func:`json_line` wrote."""
    given = json.loads(line)
    del given["environment"]
    if "tallies" in given:
        return StepCounts(**{**given, "tallies": {name: Tally(**t) for name, t in given["tallies"].items()}})
    kinds: dict[str, Any] = {"peer": Spread, "ours": Spread, "ratio": Spread, "peer_cost": Cost, "our_cost": Cost}
    parts = {name: given[name] and kind(**given[name]) for name, kind in kinds.items()}
    return Row(**{**given, **parts})


def json_line(row: Row | StepCounts, environment: dict[str, Any]) -> str:
    """One row with the environment, as one line of JSON."""
    return json.dumps({**asdict(row), "environment": environment})
