"""Launches and waits of a solve on the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gpu_lab.counting import counting_launches, counting_synchronisations
from torch import Tensor, nn

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


def test_a_step_on_a_tape_is_seven_launches_and_one_wait_and_so_many_backwards(hosts_loop: Callable[[], None]) -> None:
    hosts_loop()
    y0 = torch.randn(64, 3, requires_grad=True)

    def solve(end: float) -> tuple[int, dict[str, int], dict[str, int], int]:
        with counting_launches() as forward, counting_synchronisations() as waits:
            y = fastode.odeint(field, y0, torch.tensor([0.0, end]), rtol=1e-5, atol=1e-5, options={"first_step": 0.1})
        with counting_launches() as backward:
            y[-1].sum().backward()
        account = fastode.last_stats()
        assert account is not None and account.engine == "autograd" and not account.n_rejected
        return account.n_steps, forward, backward, len(waits)

    steps, forward, backward, waits = solve(2.0)
    fewer, *_, less = solve(1.0)
    assert forward == {"stage_kernel": 6 * steps, "finish_kernel": steps}
    assert backward == {"stage_kernel": 7 * steps}
    assert steps > fewer and waits - less == steps - fewer


def test_a_step_of_the_discrete_gradient_is_its_stages_and_a_kernel_for_each_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nn.Linear(3, 3)

    def solve(end: float) -> tuple[int, dict[str, int], int]:
        y0 = torch.randn(64, 3, requires_grad=True)
        y = fastode.odeint_adjoint(
            lambda t, y: net(y).sin(), y0, torch.tensor([0.0, end]), rtol=1e-4, atol=1e-4, gradient="discrete",
            options={"engine": "triton", "first_step": 0.1}, adjoint_params=tuple(net.parameters()),
        )  # fmt: skip
        with counting_launches() as launches, counting_synchronisations() as waits:
            y[-1].sum().backward()
        account = fastode.last_stats()
        assert account is not None and account.direction == "backward"
        return account.n_accepted, launches, len(waits)

    steps, launches, waits = solve(2.0)
    fewer, _, less = solve(1.0)
    # cotangents of seven slopes and of the state; nothing depends on the slope at the very end
    assert launches == {"stage_kernel": 6 * steps, "combine_kernel": 8 * steps - 1}
    assert steps > fewer and waits == less


def test_waits_would_be_seen() -> None:
    with counting_synchronisations() as waits:
        fastode.odeint(field, torch.randn(4, 3), torch.tensor([0.0, 1.0]), options={"engine": "reference"})
    assert len(waits) > 5
