"""Launches and waits of a solve on the device."""

from __future__ import annotations

import pytest
import torch
from gpu_lab.counting import counting_launches, counting_synchronisations
from torch import Tensor

import fastode
from fastode.device.progress import Progress

#: torchdiffeq launches about 139 kernels beside those of the field in a step of dopri5, and torchode 81
MOST_LAUNCHES = 9


def field(t: Tensor, y: Tensor) -> Tensor:
    return torch.sin(y) * torch.cos(3 * t)


def test_a_step_is_nine_launches_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[list[str]] = []
    ask = Progress.ask
    quiet = counting_synchronisations()
    counting = [quiet]

    def counted(self: Progress, state: object) -> tuple[int, int]:
        """Stops counting while the host looks."""
        if counting:
            counting.pop().__exit__(None, None, None)
        answer = ask(self, state)  # type: ignore[arg-type]
        if answer[0]:
            again = counting_synchronisations()
            waits.append(again.__enter__())
            counting.append(again)
        return answer

    monkeypatch.setattr(Progress, "ask", counted)
    waits.append(quiet.__enter__())
    y0 = torch.randn(64, 3)
    with counting_launches() as launches:
        fastode.odeint(field, y0, torch.linspace(0, 4, 5), rtol=1e-6, atol=1e-6, options={"engine": "triton"})
    account = fastode.last_stats()
    assert account is not None and account.engine == "triton"
    attempts = account.n_steps + account.n_idle
    of_steps = sum(n for name, n in launches.items() if not name.startswith("poll")) - 1  # one proposes the first step
    assert of_steps == attempts * MOST_LAUNCHES
    assert launches["stage_kernel"] == 6 * attempts
    assert launches["poll_kernel"] == len(waits) < attempts
    assert len(waits) > 2
    # the first covers the start of the solve, where times and tolerances are checked
    assert [w for w in waits[1:] if w] == []


def test_waits_would_be_seen() -> None:
    with counting_synchronisations() as waits:
        fastode.odeint(field, torch.randn(4, 3), torch.tensor([0.0, 1.0]), options={"engine": "reference"})
    assert len(waits) > 5
