"""Gradients of the times of a grid, of compiled fields: as those of the step loop, through every operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastode

from .running import assert_close
from .solving import FIXED, Timed, assert_same, solved

FORWARD = [0.0, 0.3, 0.4, 1.1, 1.5]
BACKWARD = [1.5, 1.1, 0.4, 0.3, 0.0]


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


class TimeInside(nn.Module):
    """Time goes through layers of its own, and beside the state."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(1, 7)
        self.net = nn.Linear(3, 7)
        self.out = nn.Linear(7, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(self.net(torch.cat([y, t.expand(*y.shape[:-1], 1)], -1)))
        return self.out(hidden * torch.sigmoid(self.gate(t.reshape(1, 1))))


class WithRates(nn.Module):
    """A per-row argument beside the time."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 2))

    def forward(self, t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return torch.tanh(y @ self.w) * torch.cos(rate * t)


@pytest.mark.parametrize("times", [FORWARD, BACKWARD], ids=["forward", "backward"])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("method", FIXED)
def test_every_method_has_the_gradients_of_the_step_loop(method, timed, times):
    func, y0, t = Timed(timed), torch.randn(5, 2, requires_grad=True), torch.tensor(times, requires_grad=True)
    assert_same(func, y0, t, leaves=[t, *func.parameters()], method=method)


@pytest.mark.parametrize("rows", [1, 2, 37, 300])
def test_any_number_of_rows_shares_the_times(rows):
    func, y0, t = TimeInside(), torch.randn(rows, 2, requires_grad=True), torch.tensor(FORWARD, requires_grad=True)
    assert_same(func, y0, t, leaves=[t, *func.parameters()], method="rk4")


def test_a_state_of_one_axis():
    func, t = Timed(), torch.tensor(FORWARD, requires_grad=True)
    assert_same(func, torch.randn(2, requires_grad=True), t, leaves=[t], method="midpoint")


@pytest.mark.parametrize("times", [FORWARD, BACKWARD], ids=["forward", "backward"])
@pytest.mark.parametrize("step_size", [0.07, 0.1, 0.4, 5.0])
def test_outputs_inside_steps_move_too(step_size, times):
    func, y0, t = Timed(), torch.randn(5, 2, requires_grad=True), torch.tensor(times, requires_grad=True)
    options = {"step_size": step_size}
    assert_same(func, y0, t, leaves=[t, *func.parameters()], method="rk4", options=options)


@pytest.mark.parametrize("times_too", [False, True])
def test_a_step_size_that_requires_grad(times_too):
    func, y0 = Timed(), torch.randn(5, 2, requires_grad=True)
    t, step_size = torch.tensor(FORWARD, requires_grad=times_too), torch.tensor(0.08, requires_grad=True)
    assert_same(func, y0, t, leaves=[t, step_size], method="rk4", options={"step_size": step_size})


def test_without_gradients_nothing_is_kept():
    t = torch.tensor(FORWARD, requires_grad=True)
    with torch.no_grad():
        y = fastode.odeint(fastode.compile(Timed()), torch.randn(3, 2), t, method="rk4")
    assert fastode.last_stats().engine == "compiled" and not y.requires_grad


def test_arguments_of_rows_are_differentiated_beside_the_times():
    func, y0, t = WithRates(), torch.randn(5, 2), torch.tensor(FORWARD, requires_grad=True)
    rate = torch.randn(5, 1, requires_grad=True)
    assert_same(func, y0, t, (rate,), [t, rate, func.w], method="rk4")


@pytest.mark.parametrize("memory", [1, 300, 500])
def test_states_that_are_not_kept_make_no_difference(memory):
    func, y0, t = Timed(), torch.randn(5, 2), torch.tensor(FORWARD, requires_grad=True)
    how = {"method": "rk4", "options": {"step_size": 0.1}}
    expected = solved(fastode.compile(func), y0, t, leaves=[t], **how)
    found = solved(fastode.compile(func, memory=memory), y0, t, leaves=[t], **how)
    assert torch.equal(found.grads[0], expected.grads[0])


def test_one_time_and_times_alone():
    func, y0 = Timed(), torch.randn(3, 2, requires_grad=True)
    one = torch.tensor([0.5], requires_grad=True)
    assert torch.equal(solved(fastode.compile(func), y0, one, leaves=[one], method="rk4").grads[1], torch.zeros(1))
    for p in func.parameters():
        p.requires_grad_(False)
    t = torch.tensor(FORWARD, requires_grad=True)
    assert_same(func, y0.detach(), t, leaves=[t], method="rk4")


def test_gradcheck():
    func = fastode.compile(TimeInside())

    def solve(y0, t):
        return fastode.odeint(func, y0, t, method="rk4", options={"step_size": 0.25})

    y0, t = torch.randn(3, 2, requires_grad=True), torch.tensor([0.0, 0.35, 0.9], requires_grad=True)
    assert torch.autograd.gradcheck(solve, (y0, t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_float32(dtype):
    func, y0 = TimeInside(), torch.randn(300, 2)
    t = torch.tensor(FORWARD, requires_grad=True)
    exact = solved(func, y0, t, leaves=[t], method="rk4").grads[0]
    single = t.detach().to(dtype).requires_grad_()
    found = solved(fastode.compile(func.float()), y0.float(), single, leaves=[single], method="rk4").grads[0]
    assert found.dtype == dtype
    assert_close(found.double(), exact, 1e-5, "gradient of the times")


def test_the_bits_do_not_depend_on_the_number_of_threads():
    func, y0, t = TimeInside(), torch.randn(3000, 2), torch.linspace(0, 1, 20, requires_grad=True)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(solved(fastode.compile(func), y0, t, leaves=[t], method="rk4").grads[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_second_derivative_is_refused():
    t = torch.tensor(FORWARD, requires_grad=True)
    y = fastode.odeint(fastode.compile(Timed()), torch.randn(3, 2), t, method="rk4")
    (first,) = torch.autograd.grad(y.sum(), t, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        first.sum().backward()
