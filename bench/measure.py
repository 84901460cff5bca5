"""Alternating timings of two sides, their cost and their error, and what machine they ran on."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .contest import ERROR_FACTOR, NFE_TOLERANCE, Case, Contest, Count, Side, StepCounts
from .problems import Counted

#: one-minute load above which a measurement on this machine is not to be trusted
QUIET_LOAD = 0.3
#: seconds after which idle worker threads have stopped spinning
PAUSE = 0.01
#: whose versions are reported where they are installed
PACKAGES = ("torch", "torchdiffeq", "torchode", "diffrax", "jax")


@dataclass(frozen=True)
class Spread:
    """Median, and the 20 % and 80 % quantiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: of all rounds, at least; rounds: their number, at least.
        inner: seconds that a side's calls in one round take, at least; 0 for one call a round and none to warm up.
    """

    seconds: float = 4.0
    rounds: int = 9
    inner: float = 0.01

    @classmethod
    def quick(cls) -> Effort:
        """Enough to see that everything runs; the ratios are rough."""
        return cls(seconds=0.5, rounds=3, inner=0.002)


@dataclass(frozen=True)
class Cost:
    """What a result cost, and how good it is.

    Attributes:
        nfe, nfe_backward: evaluations of the field.
        steps: attempted forward steps; those of the slowest sample where each has its own.
        error: of the result, relative; the root mean square over the samples where they are compared one by one.
        worst: the error of the worst sample, then.
    """

    nfe: int
    nfe_backward: int
    steps: int
    error: float
    worst: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table. ``refused`` says why no speed is given; values are in ``unit``."""

    case: str
    threads: int
    unit: str
    peer_label: str
    our_label: str
    peer: Spread | None
    ours: Spread | None
    ratio: Spread | None
    rounds: int
    peer_cost: Cost | None
    our_cost: Cost | None
    target: str
    met: bool | None
    refused: str


def quantiles(values: Sequence[float]) -> Spread:
    """The spread of a sample, by linear interpolation between its members."""
    x = torch.tensor(values, dtype=torch.float64)
    low, median, high = torch.quantile(x, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return Spread(median, low, high)


def timed(call: Callable[[], Any], times: int, device: str = "cpu") -> float:
    """Seconds for one call, from ``times`` of them in a row and the device's work on them."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times


def alternate(calls: Sequence[Callable[[], Any]], effort: Effort, device: str = "cpu") -> list[list[float]]:
    """Seconds a call, A B A B ..: one list for each of ``calls``, paired by round.

    Before its turn a side has a pause and a call that is not timed: worker threads of the other one (OpenMP's spin for
    a while when they have nothing to do) must not hold a core, nor its data the caches.
    """
    repeats = [1 for _ in calls]
    if effort.inner > 0:
        for i, call in enumerate(calls):
            call()  # warm up
            repeats[i] = max(1, int(effort.inner / max(timed(call, 1, device), 1e-7)))
    samples: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    while len(samples[0]) < effort.rounds or time.perf_counter() - start < effort.seconds:
        for sample, call, n in zip(samples, calls, repeats, strict=True):
            if effort.inner > 0:
                time.sleep(PAUSE)
                call()
            sample.append(timed(call, n, device))
        if time.perf_counter() - start > 20 * effort.seconds and len(samples[0]) >= 3:
            break
    return samples


def cost_of(side: Side, field: nn.Module, reference: torch.Tensor, samples: int | None = None) -> Cost:
    """One counted call: evaluations, steps, and the error relative to the reference."""
    counted = Counted(field)
    result = side.result(side.run(counted))
    if samples is None:
        return Cost(*counted.evaluations, counted.steps, float((result - reference).norm() / reference.norm()))
    errors = (result - reference).view(samples, -1).norm(dim=1) / reference.view(samples, -1).norm(dim=1)
    return Cost(*counted.evaluations, counted.steps, float(errors.square().mean().sqrt()), float(errors.max()))


def refusal(peer: Cost, ours: Cost, backward: str, allowed: float, forward: str = "equal") -> str:
    """Why the two may not be compared, or an empty string. ``allowed`` is the largest error of the peer's ways."""
    if not ours.error <= ERROR_FACTOR * allowed + 1e-12:
        return f"our error {ours.error:.2g} is more than {ERROR_FACTOR:g} times the peer's {allowed:.2g}"
    if ours.worst is not None and peer.worst is not None and not ours.worst <= ERROR_FACTOR * peer.worst + 1e-12:
        return (
            f"our error in the worst sample {ours.worst:.2g} is more than {ERROR_FACTOR:g} times the peer's "
            f"{peer.worst:.2g}"
        )
    if forward == "equal" and abs(ours.nfe - peer.nfe) > NFE_TOLERANCE * peer.nfe:
        return f"we evaluate the field {ours.nfe} times forward, the peer {peer.nfe}"
    low = 0 if backward != "equal" else (1 - NFE_TOLERANCE) * peer.nfe_backward
    high = float("inf") if backward == "any" else (1 + NFE_TOLERANCE) * peer.nfe_backward
    if not low <= ours.nfe_backward <= high:
        return f"we evaluate the field {ours.nfe_backward} times backward, the peer {peer.nfe_backward}"
    return ""


def run_case(case: Case, threads: int, effort: Effort) -> Row | StepCounts:
    """Measure one line of a table."""
    threads = case.threads or threads
    torch.set_num_threads(threads)
    built = case.build()
    if isinstance(built, StepCounts):
        return built
    effort = dataclasses.replace(effort, seconds=effort.seconds * case.share)
    if case.rounds is not None:
        effort = Effort(seconds=0.0, rounds=min(case.rounds, effort.rounds), inner=0.0)
    return _count(case, built, threads) if isinstance(built, Count) else _race(case, built, threads, effort)


def _count(case: Case, count: Count, threads: int) -> Row:
    peer, ours = count.measure()
    above, below = (ours, peer) if count.rate else (peer, ours)
    ratio = above / below if below else float("inf")
    met = None if case.target is None else case.target.met(ratio, ours)
    spreads = (Spread(v, v, v) for v in (peer, ours, ratio))
    target = str(case.target or "")
    return Row(case.name, threads, count.unit, count.peer, count.ours, *spreads, 1, None, None, target, met, "")


def _race(case: Case, contest: Contest, threads: int, effort: Effort) -> Row:
    field, target = contest.field, str(case.target or "")
    reference = contest.reference()
    peer_cost = cost_of(contest.peer, field, reference, contest.samples)
    unit = "ms" if contest.bare is None else "us/step"
    allowed = peer_cost.error
    if contest.yardstick is not None:
        allowed = max(allowed, cost_of(contest.yardstick, field, reference).error)
    entries = [(side, cost_of(side, field, reference, contest.samples)) for side in contest.ours]
    reasons = [refusal(peer_cost, cost, contest.backward, allowed, contest.forward) for _, cost in entries]
    comparable = [side for side, reason in zip(contest.ours, reasons, strict=True) if not reason]
    ours = _fastest(contest, comparable or contest.ours[-1:], effort)
    our_cost = next(cost for side, cost in entries if side is ours)
    if not comparable:
        reason = reasons[-1]
        labels = (contest.peer.label, ours.label)
        return Row(case.name, threads, unit, *labels, None, None, None, 0, peer_cost, our_cost, target, None, reason)
    calls: list[Callable[[], Any]] = [lambda: contest.peer.run(field), lambda: ours.run(field)]
    if contest.bare is not None:
        bare = contest.bare
        calls.append(lambda: bare(peer_cost.nfe))
    samples = alternate(calls, effort, contest.device)
    a, b = samples[0], samples[1]
    if contest.bare is None:
        scaled = [[1e3 * v for v in x] for x in (a, b)]
    else:
        # what is left of the time when the field's own calls are taken away, by step
        steps = (peer_cost.steps, our_cost.steps)
        scaled = [
            [1e6 * max(v - w, 1e-9) / n for v, w in zip(x, samples[2], strict=True)]
            for x, n in zip((a, b), steps, strict=True)
        ]
    ratio = quantiles([p / q for p, q in zip(*scaled, strict=True)])
    spreads = (quantiles(scaled[0]), quantiles(scaled[1]), ratio)
    met = None if case.target is None else case.target.met(ratio.median, spreads[1].median)
    labels = (contest.peer.label, ours.label)
    return Row(case.name, threads, unit, *labels, *spreads, len(a), peer_cost, our_cost, target, met, "")


def _fastest(contest: Contest, sides: Sequence[Side], effort: Effort) -> Side:
    if len(sides) == 1:
        return sides[0]
    short = Effort(effort.seconds / 4, 3, effort.inner)
    calls = [lambda side=side: side.run(contest.field) for side in sides]
    times = [quantiles(s).median for s in alternate(calls, short, contest.device)]
    return sides[times.index(min(times))]


def environment(device: str = "cpu") -> dict[str, Any]:
    """The machine, the device and the versions, for the table's caption and every JSON line."""
    import fastode

    try:
        from fastode import _native

        target = _native.target()
    except ImportError:
        target = "none (not built)"
    return {
        "device": _device_name() if device == "cuda" else "",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores",
        "cpu": _cpu_model(),
        "instruction_set": target,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
        "fastode": fastode.__version__,
        "commit": commit(Path(__file__).resolve().parents[1]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load": round(load_average(), 2),
    }


def load_average() -> float:
    """The one-minute load, or NaN where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _device_name() -> str:
    """As the beginning of the caption."""
    return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda}) in "


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit(root: Path) -> str:
    """The commit that is checked out, read from the repository's files; ``"unknown"`` without one."""
    git = root / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / ref).exists():
            return (git / ref).read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            if line.endswith(f" {ref}"):
                return line.split()[0]
    except OSError:
        pass
    return "unknown"
