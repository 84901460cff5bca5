"""How the benchmark counts kernels and waits of a GPU, with a CPU's operators and reads in their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from repository import importable
from torch import Tensor
from torch.autograd import DeviceType

import fastode

pytest.importorskip("torchdiffeq", reason="the benchmark measures beside torchdiffeq")
with importable():
    from bench import launches
    from bench.cases import device_counts
    from bench.cases.dispatch import Operators
    from bench.problems import Rotation


class Counter:
    """Stands for the profiler of a GPU: operators are its kernels, reads of elements its waits."""

    def launches(self, call: Callable[[], Any]) -> int:
        with Operators() as seen:
            call()
        return seen.total

    def waits(self, call: Callable[[], Any]) -> int:
        with Operators() as seen:
            call()
        return seen.names.get("aten._local_scalar_dense.default", 0)


def test_counts_are_by_attempted_step_and_without_the_field() -> None:
    import torchdiffeq

    field, y0, counter = Rotation(), torch.ones(4, 2), Counter()
    solve = device_counts._odeint(torchdiffeq.odeint, y0)
    with torch.no_grad():
        theirs = launches.per_step(field, solve, counter.launches, counter.waits, 1)
        with_field = launches.per_step(field, solve, counter.launches, counter.waits, 0)
        ours = launches.per_step(field, device_counts._odeint(fastode.odeint, y0), counter.launches, counter.waits, 1)
    assert with_field.launches == pytest.approx(theirs.launches + launches.EVALUATIONS)
    assert theirs.launches > 100 and theirs.waits >= 1
    assert ours.launches < 10 and ours.waits == ours.looks == 0


@pytest.mark.parametrize("peer", ["torchdiffeq", "torchode"])
def test_every_library_whose_kernels_are_counted_solves_the_same(peer: str) -> None:
    pytest.importorskip(peer)
    field, y0 = Rotation(), torch.ones(4, 2)
    pair = {
        "torchdiffeq": lambda: (
            device_counts._odeint(__import__(peer).odeint, y0),
            device_counts._odeint(fastode.odeint, y0),
        ),
        "torchode": lambda: (device_counts._torchode(y0), device_counts._rows(y0)),
    }[peer]()
    ends = []
    for solve in pair:
        solved = solve(field, 1.0)
        solved = solved[-1] if isinstance(solved, Tensor) else solved.ys[:, -1]
        ends.append(solved.detach())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_where_the_profiler_sees_no_kernel_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CUDA is not available")
        with pytest.raises(RuntimeError, match=r"torch\.profiler saw no kernel"):
            launches.launches(lambda: torch.ones(3) + 1)
    events = [
        SimpleNamespace(device_type=d, is_user_annotation=a) for d in (DeviceType.CPU, DeviceType.CUDA) for a in (0, 1)
    ]
    assert launches.kernels_in(events) == 1


def test_waits_are_what_torch_notes_but_for_our_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastode.device.progress import Progress

    mode = ["default"]

    def item() -> None:
        if mode[0] == "warn":
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)

    monkeypatch.setattr("torch.cuda.get_sync_debug_mode", lambda: {"default": 0, "warn": 1}[mode[0]])
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", lambda to: mode.__setitem__(0, {0: "default"}.get(to, to)))
    monkeypatch.setattr(Progress, "ask", lambda self, state: item())
    progress = object.__new__(Progress)

    def solve() -> None:
        item()
        item()
        progress.ask(None)  # type: ignore[arg-type]

    with launches.counting_looks() as looks:
        assert launches.waits(solve) == 2
    assert looks == [1] and mode == ["default"]
