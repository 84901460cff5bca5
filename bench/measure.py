"""Alternating timings of two sides."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .contest import Case, Contest, Count, Side, StepCounts
from .costs import Cost, cost_in, cost_of, refusal

#: seconds after which idle worker threads have stopped spinning
PAUSE = 0.01


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
    entries = [(side, cost_in(contest, side, reference)) for side in contest.ours]
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
