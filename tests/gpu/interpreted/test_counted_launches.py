"""The benchmark's count of launches by step, on kernels in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu_lab.counting import counting_launches
from repository import importable
from torch import Tensor

import fastode

with importable():
    from bench import launches
    from bench.problems import Rotation

HOW = {"rtol": 1e-3, "atol": 1e-3}


def shared(field: Callable[..., Tensor], end: float) -> Tensor:
    return fastode.odeint(field, torch.ones(4, 2), torch.tensor([0.0, end]), options={"engine": "triton"}, **HOW)


def of_rows(field: Callable[..., Tensor], end: float) -> Any:
    return fastode.solve(field, torch.ones(4, 2), (0.0, end), engine="triton", **HOW)


def of_triton(call: Callable[[], Any]) -> int:
    """Launches, and the copies that would follow the kernels by which the host looks."""
    with counting_launches() as seen:
        call()
    return sum(seen.values()) + seen["poll_kernel"]


@pytest.mark.parametrize("solve", [shared, of_rows])
def test_a_step_is_nine_launches_beside_the_looks(solve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(launches, "ENDS", (0.5, 2.0))
    with torch.no_grad():
        found = launches.per_step(Rotation(), solve, of_triton, lambda call: 0, 0)
    assert found.launches == 9
    assert 0 < found.looks < 1
