"""Every case of the benchmark runs at tiny size and gives a number; speeds are not looked at."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from repository import ROOT, importable
from torch import Tensor

import fastode

pytest.importorskip("torchdiffeq", reason="the benchmark measures beside torchdiffeq")
with importable():
    from bench.batches import COUNTED_KINDS, Batch, VanDerPol, batch
    from bench.cases import all_cases
    from bench.compiled import odeint_sides
    from bench.contest import Case, Contest, Count, Side, StepCounts, Target
    from bench.costs import Cost, refusal
    from bench.libraries import absent
    from bench.measure import Effort, Row, run_case, timed
    from bench.problems import Counted, MLPField, training_side
    from bench.report import left_out, report, step_cells
    from bench.steps import count_steps

CASES = all_cases(tiny=True)
AT_ONCE = Effort(seconds=0.0, rounds=1, inner=0.0)
COUNTED = [c for c in CASES if c.name.startswith("steps of")]
TIMED = [c for c in CASES if c not in COUNTED]


def names(cases: list[Case]) -> list[str]:
    return [c.name.replace(" ", "-") for c in cases]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", TIMED, ids=names(TIMED))
def test_a_case_gives_a_row_of_numbers_and_is_not_refused(case: Case) -> None:
    if case.missing:
        pytest.skip(case.missing)
    row = run_case(case, 1, AT_ONCE)
    assert isinstance(row, Row)
    assert row.refused == ""
    assert row.case == case.name and row.unit
    for spread in (row.peer, row.ours, row.ratio):
        assert spread is not None
        assert 0 <= spread.low <= spread.median <= spread.high
    assert row.ratio is not None and math.isfinite(row.ratio.median)


@pytest.mark.parametrize("case", COUNTED, ids=names(COUNTED))
def test_every_sample_of_a_batch_takes_its_own_steps_and_few_evaluations_are_wasted(case: Case) -> None:
    counts = run_case(case, 1, AT_ONCE)
    assert isinstance(counts, StepCounts)
    assert counts.refused == "" and counts.compared > 0
    ours, shared = counts.tallies["fastode"], counts.tallies["torchdiffeq"]
    assert counts.needed <= ours.made
    assert ours.mean < ours.most and shared.mean == shared.most
    assert step_cells(counts)[0] == case.name


def test_samples_that_feel_their_batch_refuse_the_row() -> None:
    class Crowded(VanDerPol):
        def forward(self, t: Tensor, y: Tensor, parameter: Tensor | None = None) -> Tensor:
            return len(y) * super().forward(t, y, parameter)

    batch = Batch(Crowded(torch.tensor([1.0, 5.0])), torch.tensor([[2.0, 0.0], [2.0, 0.0]]), 1.0)
    counts = count_steps("crowded", batch, {}, range(2))
    assert counts.same == 0
    assert "2 of 2 samples differ" in counts.refused
    assert "refused: crowded: 2 of 2" in report([counts], {}, markdown=False)


def contest_of(*ours: Side) -> Contest:
    """A peer that takes a moment and errs by 1e-3."""
    return Contest(torch.nn.Identity(), side_of("peer", 1.001, 1e-3), ours, lambda: torch.ones(1, dtype=torch.float64))


def side_of(label: str, value: float, seconds: float) -> Side:
    return Side(label, lambda field: time.sleep(seconds), lambda _: torch.tensor([value], dtype=torch.float64))


def test_the_fastest_way_that_may_be_compared_competes() -> None:
    ways = (side_of("wrong", 1.1, 0.0), side_of("slow", 1.0, 0.02), side_of("right", 1.0, 1e-3))
    row = run_case(Case("ways", lambda: contest_of(*ways)), 1, AT_ONCE)
    assert isinstance(row, Row)
    assert row.our_label == "right" and row.refused == ""
    row = run_case(Case("ways", lambda: contest_of(ways[0])), 1, AT_ONCE)
    assert isinstance(row, Row) and "our error" in row.refused


def test_a_case_has_its_own_threads_and_rounds() -> None:
    seen: list[int] = []
    ours = Side("ours", lambda field: seen.append(torch.get_num_threads()), lambda _: torch.ones(1).double())
    row = run_case(Case("few", lambda: contest_of(ours), threads=2, rounds=2), 1, Effort())
    assert isinstance(row, Row)
    assert row.threads == 2 and row.rounds == 2
    assert seen == [2, 2, 2]  # counted, and once a round


@pytest.mark.parametrize(("rate", "ratio"), [(False, 4.0), (True, 0.25)])
def test_of_rates_the_ratio_is_ours_over_the_peers(rate: bool, ratio: float) -> None:
    count = Count(lambda: (8.0, 2.0), "GFLOP/s", "peer", "ours", rate)
    row = run_case(Case("rate", lambda: count, Target("ratio", 0.5)), 1, AT_ONCE)
    assert isinstance(row, Row) and row.ratio is not None
    assert row.ratio.median == ratio
    assert row.met is not rate


def test_a_compiled_side_counts_native_solves_and_takes_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    field, y0, t = MLPField(2, 4), torch.ones(3, 2), torch.tensor([0.0, 1.0])
    (side,) = odeint_sides(training_side, field, y0, t, [1e-3])
    counted = Counted(field)
    side.run(counted)
    with fastode.stats() as log:
        side.run(field)
    assert counted.evaluations == [entry.n_func for entry in log] and counted.steps == log[0].n_steps > 0
    monkeypatch.setenv("FASTODE_ENGINE", "native")
    with pytest.raises(RuntimeError, match="FASTODE_ENGINE"):
        side.run(Counted(field))


def test_tiny_and_full_size_are_the_same_cases() -> None:
    assert [c.name for c in all_cases()] == [c.name for c in CASES]
    assert len({c.name for c in CASES}) == len(CASES)


def test_one_bad_sample_refuses_a_row_that_is_good_in_the_mean() -> None:
    peer, ours = Cost(100, 0, 16, 1e-5, worst=1e-4), Cost(100, 0, 16, 1e-5, worst=1.6e-4)
    assert "worst sample" in refusal(peer, ours, "equal", peer.error)
    assert refusal(ours, peer, "equal", ours.error) == ""


def test_cases_whose_peer_is_missing_are_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = absent("torchode", "cpu")
    assert "torchode is not installed" in reason
    cases = [
        Case("one", CASES[0].build, missing=reason),
        Case("two", CASES[0].build),
        replace(CASES[0], missing=reason),
    ]
    assert left_out(cases) == f"left out: one; {CASES[0].name}: {reason}"


def test_on_another_device_the_cases_that_are_not_about_cpus_remain_whole() -> None:
    there = {c.name for c in all_cases(tiny=True, device="meta")}
    only_here = {c.name for c in CASES if c.name not in there}
    about_cpus = (
        "operators",
        "engine beside",
        "overhead",
        "one thread",
        "outputs",
        "float64",
        "rk4",
        "flow (z",
        "neural CDE",
    )
    assert all(any(word in name for word in about_cpus) for name in only_here), only_here
    assert {c.name for c in CASES if c.name.startswith(("per sample", "steps of"))} <= there


@pytest.mark.parametrize("kind", COUNTED_KINDS)
def test_a_batch_lies_wholly_on_its_device(kind: str) -> None:
    # a field that mixed in a tensor of another device would raise
    problem = batch(kind, 3, "meta")
    for slope in (problem.field(torch.zeros(3), problem.y0), problem.field(None, problem.y0, problem.field.parameter)):
        assert slope.device.type == "meta" and slope.shape == problem.y0.shape


def test_a_timing_waits_for_the_device_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda: seen.append("wait"))
    timed(lambda: seen.append("call"), 2, "cuda")
    assert seen == ["wait", "call", "call", "wait"]
    timed(lambda: seen.append("call"), 1)
    assert seen[4:] == ["call"]


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, **variables},
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_the_command_prints_both_tables_of_a_gpu() -> None:
    done = command("--device", "cuda", "--tiny", "--quick", "--only", "Lorenz 256")
    assert done.returncode in (0, 1), done.stderr  # 1: a target was missed, which tiny sizes may
    assert "refused" not in done.stdout
    assert torch.cuda.get_device_name() in done.stdout
    names = [case.name for case in all_cases(tiny=True, device="cuda") if "Lorenz 256" in case.name]
    assert len(names) > 1 and all(name in done.stdout for name in names)


def test_the_command_prints_a_table_and_writes_a_line_for_each_row(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    done = command("--only", "overhead", "--quick", "--tiny", "--threads", "1", "--json", str(lines))
    assert done.returncode in (0, 1), done.stderr  # 1: a target was missed, which tiny sizes may
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [r["case"] for r in rows] == [c.name for c in CASES if "overhead" in c.name]
    assert not any(r["refused"] for r in rows)
    for row in rows:
        assert row["case"] in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--only", "nothing like this"), "fits no case"), (("--device", "cuda"), "no CUDA device")],
    ids=["case", "device"],
)
def test_the_command_says_what_it_cannot_do(arguments: tuple[str, ...], words: str) -> None:
    done = command(*arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert words in done.stderr
