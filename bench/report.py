"""Rows as a table for a terminal, as Markdown, and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .contest import Case
from .measure import Cost, Row, Spread

COLUMNS = (
    "case", "thr", "torchdiffeq", "fastode", "unit", "ratio", "20-80 %", "target", "met", "NFE", "steps", "error"
)  # fmt: skip


def number(x: float) -> str:
    """Three significant digits, never in exponent form where that can be helped."""
    if x == 0 or not abs(x) < float("inf"):
        return f"{x:g}"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def cells(row: Row) -> list[str]:
    """One line of the table, as strings under :data:`COLUMNS`."""
    met = {None: "", True: "yes", False: "NO"}[row.met]
    numbers = [_median(row.peer), _median(row.ours), row.unit, "refused", ""]
    if row.ratio is not None:
        numbers[3:] = [f"{number(row.ratio.median)}x", f"{number(row.ratio.low)}-{number(row.ratio.high)}"]
    name = f"{row.case} ({row.our_label})"
    costs = [_pair(row, evaluations), _pair(row, lambda c: str(c.steps)), _pair(row, error)]
    return [name, str(row.threads), *numbers, row.target, met, *costs]


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


def text_table(rows: Sequence[Row]) -> str:
    """Aligned columns."""
    lines = [list(COLUMNS), *[cells(r) for r in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    shown = ["  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    shown.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join([*shown, *_reasons(rows)])


def markdown_table(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """A table for the README, with its caption."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    lines += ["| " + " | ".join(cells(r)) + " |" for r in rows]
    return "\n".join([*lines, "", caption(environment), *_reasons(rows)])


def caption(environment: dict[str, Any]) -> str:
    """What the numbers were measured on."""
    e = environment
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    return (
        f"{e['cpu']} ({e['machine']}), {e['instruction_set']}, {versions}, "
        f"fastode {e['fastode']} at {e['commit'][:10]}, {e['date']}, load {e['load']}. Medians of alternating rounds; "
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


def _reasons(rows: Sequence[Row]) -> list[str]:
    return [f"refused: {r.case}: {r.refused}" for r in rows if r.refused]


def json_line(row: Row, environment: dict[str, Any]) -> str:
    """One row with the environment, as one line of JSON."""
    return json.dumps({**asdict(row), "environment": environment})
