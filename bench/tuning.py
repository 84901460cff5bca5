"""What only a GPU can tell: which block sizes are the fastest, kernel by kernel.

``tune`` measures every combination on the sizes of :data:`bench.tuned_kernels.KERNELS`; the settings in use are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .budget import Budget
from .parts import Findings
from .report import markdown_table, number

COLUMNS = ("kernel", "size", "settings", "us", "of the fastest", "GB/s", "error")
#: relative; a setting that errs more is not one to choose: tf32 has 5e-4 in a product
WORST_ERROR = 1e-2


@dataclass(frozen=True)
class Trial:
    """One kernel with some settings.

    Attributes:
        size: of the problem; only trials of one kernel and size are compared.
        in_use: whether these settings are what a solve takes.
        prepare: makes the call that is timed; compiling happens there, or in its first call.
        count: what the time is divided by, such as attempts in a call.
        moved: bytes, where memory bounds the kernel; 0 elsewhere.
        error: of the call's result, relative; None where nothing is rounded differently.
    """

    kernel: str
    size: str
    settings: str
    in_use: bool
    prepare: Callable[[], Callable[[], object]]
    count: Callable[[], int] = lambda: 1
    moved: int = 0
    error: Callable[[], float] | None = None


@dataclass
class Timing:
    """What came of a trial."""

    trial: Trial
    microseconds: float
    error: float | None


Bench = Callable[[Callable[[], object]], float]


def tune(seconds: float, note: Callable[[Findings], None]) -> Findings:
    """Measure for so long; what was found so far goes to ``note`` after each kernel and size."""
    from triton.testing import do_bench

    from .tuned_kernels import trials

    return measure(trials("cuda"), lambda call: float(do_bench(call, warmup=10, rep=40)), Budget(seconds / 60), note)


def measure(
    trials: Iterator[Trial] | Sequence[Trial], bench: Bench, budget: Budget, note: Callable[[Findings], None]
) -> Findings:
    """All trials until the time is up.

    Args:
        bench: milliseconds of a call.
    """
    timings: list[Timing] = []
    problems: list[str] = []
    left: dict[str, int] = {}
    failed = False
    for trial in trials:
        name = f"{trial.kernel}, {trial.size}"
        if budget.spent:
            left[name] = left.get(name, 0) + 1
            continue
        try:
            timings.append(_timing(trial, bench))
        except Exception as error:  # settings that do not fit this GPU, such as too much shared memory
            problems.append(f"{name}, {trial.settings}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
            # what a solve takes has to run
            failed |= trial.in_use
        note(Findings(table(timings), problems, failed))
    problems += [f"not measured: {n} settings of {name}: the time for this part was spent" for name, n in left.items()]
    wrong = [t for t in timings if t.error is not None and not t.error <= WORST_ERROR]
    problems += [f"{t.trial.kernel}, {t.trial.size}, {t.trial.settings}: error {t.error:.1e}" for t in wrong]
    found = Findings(table(timings), problems, failed or bool(wrong))
    note(found)
    return found


def _timing(trial: Trial, bench: Bench) -> Timing:
    call = trial.prepare()
    error = None if trial.error is None else trial.error()
    return Timing(trial, 1e3 * bench(call) / trial.count(), error)


def table(timings: Sequence[Timing]) -> str:
    """As Markdown: of each kernel and size the fastest first."""
    groups: dict[tuple[str, str], list[Timing]] = {}
    for timing in timings:
        groups.setdefault((timing.trial.kernel, timing.trial.size), []).append(timing)
    lines = []
    for (kernel, size), group in groups.items():
        fastest = min(t.microseconds for t in group)
        for t in sorted(group, key=lambda t: t.microseconds):
            settings = f"**{t.trial.settings}** (in use)" if t.trial.in_use else t.trial.settings
            rate = number(t.trial.moved / t.microseconds * 1e-3) if t.trial.moved else ""
            error = "" if t.error is None else f"{t.error:.1e}"
            lines.append(
                [kernel, size, settings, number(t.microseconds), f"{t.microseconds / fastest:.2f}x", rate, error]
            )
    return "\n".join(markdown_table(COLUMNS, lines))
