"""The cases of the benchmark that run on any device: where their tensors are, and what is counted there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from repository import importable
from torch import Tensor, nn
from torch.autograd import DeviceType

import fastode

pytest.importorskip("torchdiffeq", reason="the benchmark measures beside torchdiffeq")
with importable():
    from bench import profiles
    from bench.cases import all_cases, device_counts
    from bench.compiled import odeint_sides
    from bench.contest import Case, Contest, Side, StepCounts
    from bench.costs import Cost, account_of, cost_of
    from bench.machine import environment
    from bench.measure import Effort, Row, run_case
    from bench.problems import Counted, MLPField, forward_side, joined, training_side
    from bench.report import GPU_COLUMNS, from_json, json_line, report, slower_engines

AT_ONCE = Effort(seconds=0.0, rounds=1, inner=0.0)
OF_A_GPU = all_cases(tiny=True, device="cuda")
COUNTS = [c for c in OF_A_GPU if c.build.func.__module__.endswith("device_counts")]


def on(case: Case, device: str) -> Callable[[], Any]:
    """What a case builds, on another device."""
    return functools.partial(case.build.func, *case.build.args, **{**case.build.keywords, "device": device})


def test_a_gpu_gets_larger_batches_beside_those_of_a_cpu() -> None:
    names = [c.name for c in all_cases(device="cuda")]
    assert names == [c.name for c in OF_A_GPU] and len(set(names)) == len(names)
    for size in ("64-2-64", "2048-2-64", "65536-2-64"):
        for kind in ("forward", "compiled forward", "training odeint", "compiled training", "CNF training"):
            assert any(name.startswith(f"{kind} {size}") for name in names), (kind, size)
    assert {name.split()[5] for name in names if "Hutchinson" in name} == {"1000-43-860,", "10000-43-860,"}


def test_the_targets_of_a_cpu_do_not_hold_on_a_gpu() -> None:
    assert {str(c.target) for c in OF_A_GPU if c not in COUNTS} == {"None"}
    assert {str(c.target) for c in COUNTS} == {"<= 9", "<= 0", "None"}
    assert device_counts.cases(tiny=True, device="cpu") == []


def test_what_a_gpu_builds_at_tiny_size_is_run_on_a_cpu_by_the_smoke_test() -> None:
    run = {(c.build.func, c.build.args) for c in all_cases(tiny=True) if isinstance(c.build, functools.partial)}
    names = [c.name for c in OF_A_GPU if (c.build.func, c.build.args) not in run and c not in COUNTS]
    # whose builds hold their names, which the size is part of
    assert all(name.startswith("steps of") for name in names)
    assert {c.build.keywords["device"] for c in OF_A_GPU} == {"cuda"}


def tensors_in(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    """What a side's functions hold, however deep."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from thing.state_dict().values()
    elif isinstance(thing, FunctionType):
        parts = [c.cell_contents for c in thing.__closure__ or ()]
    elif isinstance(thing, MethodType):
        parts = [thing.__self__, thing.__func__]
    elif isinstance(thing, functools.partial):
        parts = [*thing.args, *thing.keywords.values()]
    elif isinstance(thing, list | tuple):
        parts = list(thing)
    elif type(thing).__module__.startswith("bench."):
        parts = list(vars(thing).values())
    for part in parts:
        yield from tensors_in(part, seen)


def contests() -> Iterator[Any]:
    """Cases that hold tensors when they are built, each kind once; jax has those of diffrax."""
    known = set()
    for case in OF_A_GPU:
        key = (case.build.func, case.build.args)
        if key not in known and case not in COUNTS and "diffrax" not in case.name and "steps of" not in case.name:
            known.add(key)
            yield pytest.param(case, id=case.name.replace(" ", "-"))


@pytest.mark.parametrize("case", list(contests()))
def test_all_tensors_of_a_contest_are_on_its_device(case: Case) -> None:
    if case.missing:
        pytest.skip(case.missing)
    contest = on(case, "meta")()
    assert isinstance(contest, Contest) and contest.device == "meta"
    found = [*tensors_in([contest.field, contest.peer, contest.ours, contest.yardstick], set())]
    assert len(found) > 1
    assert {x.device.type for x in found} == {"meta"}


def exact() -> Tensor:
    return torch.ones(6, dtype=torch.float64)


def test_on_a_device_fastode_counts_for_itself_and_names_its_engine() -> None:
    field, y0, t = MLPField(2, 4), torch.ones(3, 2), torch.tensor([0.0, 1.0])
    side = forward_side("odeint", fastode.odeint, y0, t, rtol=1e-5, atol=1e-5)
    counted = Counted(field)
    reference = joined(side.run(counted))
    cost = account_of(side, field, reference)
    assert (cost.nfe, cost.nfe_backward, cost.steps) == (*counted.evaluations, counted.steps)
    assert cost.error == 0 and cost.engine == "native" and cost.reason == ""
    (training,) = odeint_sides(training_side, field, y0, t, [1e-5])
    told, seen = account_of(training, field, exact()[:1]), cost_of(training, field, exact()[:1])
    assert (told.nfe, told.nfe_backward, told.steps, told.engine) == (
        seen.nfe, seen.nfe_backward, seen.steps, "compiled"
    )  # fmt: skip
    assert told.nfe_backward > 0
    other = Side(side.label, side.run, side.result, served_by="compiled")
    with pytest.raises(RuntimeError, match="solved by the engine 'native', not 'compiled'"):
        account_of(other, field, reference)


def test_a_field_that_a_contest_hands_out_on_a_device_has_no_callbacks() -> None:
    seen: list[nn.Module] = []
    ours = Side("ours", lambda field: seen.append(field) or [], lambda _: exact())
    field = nn.Identity()
    for device in ("cpu", "meta"):
        contest = Contest(field, Side("peer", lambda field: None, lambda _: exact()), (ours,), exact, device=device)
        run_case(Case("handed", lambda contest=contest: contest), 1, AT_ONCE)
    assert [type(f) for f in seen] == [Counted, nn.Identity, nn.Identity, nn.Identity]


def test_the_table_of_a_gpu_names_engines_and_nothing_of_the_cpu() -> None:
    cost = Cost(20, 0, 3, 1e-6, None, "triton, reference", "callbacks")
    row = Row("a case", 3, "ms", "peer", "ours", None, None, None, 0, cost, cost, "", None, "because")
    facts = {
        "device": "a GPU (9.0)", "machine": "Linux", "cpu": "a CPU", "instruction_set": "avx2", "load": 7.25,
        "python": "3", "versions": {"torch": "2"}, "fastode": "0", "commit": "abc", "date": "today",
    }  # fmt: skip
    text = report([row], facts, markdown=True)
    assert text.splitlines()[0] == "| " + " | ".join(GPU_COLUMNS) + " |"
    assert "triton, reference" in text and "a GPU (9.0), torch 2" in text
    for word in ("avx2", "7.25", "a CPU"):
        assert word not in text
    assert slower_engines([row]) == ["a case: served by triton, reference: callbacks"]


def test_a_gpu_is_named_with_what_drives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(name="A GPU", major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: facts)
    named = environment("cuda")["device"]
    assert named.startswith(f"A GPU (9.0, 132 multiprocessors, 80 GiB, CUDA {torch.version.cuda}")


def test_of_a_gpu_only_its_kernels_are_in_the_table_of_what_took_most() -> None:
    def average(key: str, kind: DeviceType, device: float) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=kind, count=2, self_device_time_total=device)

    averages = [
        average("launch", DeviceType.CPU, 0.0),
        average("small|er", DeviceType.CUDA, 1e3),
        average("large", DeviceType.CUDA, 3e3),
    ]
    assert profiles._most(averages, "self_device_time_total", "cuda")[2:] == [
        "| `large` | 2 | 3 | 75% |",
        "| `small/er` | 2 | 1 | 25% |",
    ]


def test_rows_come_back_from_their_lines() -> None:
    case = next(c for c in all_cases(tiny=True) if c.name.startswith("forward"))
    counted = next(c for c in all_cases(tiny=True) if c.name.startswith("steps of"))
    for chosen, kind in ((case, Row), (counted, StepCounts)):
        row = run_case(chosen, 1, AT_ONCE)
        assert isinstance(row, kind)
        assert from_json(json_line(row, {"python": "3"})) == row
