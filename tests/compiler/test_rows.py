"""``fastode.solve`` of compiled fields: every row its own solve, as the step loop solves it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode import Status
from fastode.compiler.rows import NativeRows

from .solving import ADAPTIVE, FIXED


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y[:, 0], y[:, 1]
    return torch.stack([v, mu * (1 - x * x) * v - x], 1)


def forced(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    return rate * torch.cos(3 * t)[:, None] * y - 0.5 * y


def root(t: Tensor, y: Tensor) -> Tensor:
    return -torch.sqrt(y - 0.25 * t[:, None])


def states(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    y0 = torch.randn(rows, 2, dtype=dtype, generator=generator)
    return y0.requires_grad_(), torch.linspace(0.5, 3.0, rows, dtype=dtype).requires_grad_()


def served(log: fastode.StatsLog) -> str:
    return log[0].engine


def assert_alike(ours: fastode.Solution, loop: fastode.Solution, tolerance: float) -> None:
    assert torch.equal(ours.status, loop.status)
    assert torch.equal(ours.stats.n_accepted, loop.stats.n_accepted)
    assert torch.equal(ours.stats.n_rejected, loop.stats.n_rejected)
    assert torch.equal(ours.stats.n_func, loop.stats.n_func)
    for a, b in ((ours.ys, loop.ys), (ours.y, loop.y), (ours.t, loop.t)):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("rows", [1, 3, 37, 130])
def test_the_steps_are_those_of_the_loop(method, rows):
    y0, mu = states(rows)
    asked = {"t_eval": torch.linspace(0, 2, 6), "args": (mu,), "method": method}
    field = fastode.compile(van_der_pol)
    with fastode.stats() as log:
        ours = fastode.solve(field, y0, **asked)
    assert served(log) == "compiled", log[0].reason
    assert log[0].n_func == int(ours.stats.n_func.max())
    assert ours.stats.n_calls == 0
    loop = fastode.solve(van_der_pol, y0, **asked)
    tolerance = 1e-5 if method == "dopri8" else 1e-8  # its error estimate, and so its steps, magnify rounding
    assert_alike(ours, loop, tolerance)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in (ours.ys, ours.y)]
    got = torch.autograd.grad([ours.ys, ours.y], [y0, mu], cotangents)
    wanted = torch.autograd.grad([loop.ys, loop.y], [y0, mu], cotangents)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=10 * tolerance * float(b.abs().max()))


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("rows", [1, 3, 37, 130])
def test_steps_of_a_given_size(method, rows):
    """The steps of a row are as long as it asks, cut at its times of evaluation, and end where its state does."""
    y0, mu = states(rows)
    sizes = torch.linspace(0.02, 0.11, rows)
    ts = torch.stack([torch.linspace(0, end, 4) for end in torch.linspace(-0.5, 1.0, rows) + 0.01])
    asked = {"t_eval": ts, "args": (mu,), "method": method, "first_step": sizes, "max_steps": 40}
    found = []
    for field in (fastode.compile(van_der_pol), van_der_pol):
        with fastode.stats() as log:
            solution = fastode.solve(field, y0, **asked)
        grads = torch.autograd.grad(solution.ys.square().sum() + solution.y.sum(), [y0, mu])
        found.append((served(log), solution, grads))
    (engine, ours, got), (_, loop, wanted) = found
    assert engine == "compiled"
    assert bool(ours.stats.n_accepted.min() > 2) and not bool(ours.stats.n_rejected.any())
    assert_alike(ours, loop, 1e-12)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


def test_steps_of_a_given_size_end_alone_where_a_state_is_not_finite():
    y0 = torch.tensor([[0.5, 1.0], [30.0, 2.0], [-0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    field = fastode.compile(lambda t, y: torch.exp(y))
    solution = fastode.solve(field, y0, (0.0, 0.2), method="rk4", first_step=0.02)
    assert [Status(int(s)) for s in solution.status] == [Status.FINISHED, Status.NON_FINITE, Status.FINISHED]
    assert solution.y.isfinite().all()
    (grad,) = torch.autograd.grad(solution.y[[0, 2]].sum(), y0)
    exact = torch.exp(solution.y.detach() - y0.detach())  # of dy/dt = exp(y)
    torch.testing.assert_close(grad[[0, 2]], exact[[0, 2]], rtol=1e-4, atol=0)
    assert not grad[1].any()


class Gated(nn.Module):
    """What comes from the time alone differs from row to row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate, self.shift = nn.Linear(2, 2), nn.Linear(1, 2), nn.Linear(1, 2, bias=False)
        self.mix = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        gate = self.mix(torch.sigmoid(self.gate(t[:, None])))
        return torch.tanh(self.layer(y)) * gate + self.shift(t[:, None] + 0 * y[:, :1])


@pytest.mark.parametrize("rows", [1, 5, 130])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_layers_of_the_time_get_the_gradient_of_each_row(method, rows):
    torch.manual_seed(1)
    net, (y0, _) = Gated().double(), states(rows)
    asked = {"method": method, "first_step": 0.05, "t_span": (0.0, torch.linspace(0.3, 1.4, rows))}
    found = []
    for field in (fastode.compile(net), net):
        with fastode.stats() as log:
            y = fastode.solve(field, y0, **asked).y
        found.append((served(log), torch.autograd.grad(y.square().sum(), [y0, *net.parameters()])))
    (engine, got), (_, wanted) = found
    assert engine == "compiled"
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def test_a_network_and_its_parameters():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2)).double()

    class TimeDependent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(torch.cat([y, t[:, None]], 1))

    func = TimeDependent()
    y0, _ = states(45)
    spans = (torch.zeros(45), torch.linspace(0.5, -2.0, 45))
    found = []
    for field in (fastode.compile(func), func):
        with fastode.stats() as log:
            solution = fastode.solve(field, y0, spans)
        loss = (solution.ys[:, -1] ** 2).sum() + solution.y.sum()
        found.append((solution, torch.autograd.grad(loss, [y0, *net.parameters()])))
        assert served(log) == ("compiled" if field is not func else "native")
    (ours, got), (loop, wanted) = found
    assert_alike(ours, loop, 1e-11)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def test_options_of_rows():
    y0, rate = states(21)
    rate = rate[:, None]
    per_row = torch.logspace(-8, -3, 21)[:, None]
    ts = [torch.linspace(0, float(end), 1 + i % 4 + 1) for i, end in enumerate(torch.linspace(-2, 2, 21) + 0.01)]
    for asked in (
        {"rtol": per_row, "atol": 1e-6},
        {"controller": "PID", "first_step": torch.linspace(0.01, 0.2, 21), "t_eval": ts},
        {"max_step": 0.05, "controller": "PI"},
        {"step_t": torch.tensor([0.3, 1.1])},
        {"max_steps": 5, "rtol": per_row},
    ):
        given = {"t_span": None if "t_eval" in asked else (0.0, 2.0), "args": (rate,), **asked}
        with fastode.stats() as log:
            ours = fastode.solve(fastode.compile(forced), y0, **given)
        assert served(log) == "compiled", log[0].reason
        loop = fastode.solve(forced, y0, **given)
        assert_alike(ours, loop, 1e-8)


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("rows", [1, 3, 37])
def test_dense_output_is_that_of_the_loop(rows, method, memory):
    y0, mu = states(rows)
    spans = (torch.zeros(rows), torch.linspace(-0.6, 1.5, rows) + 0.01)
    # given steps: the error estimate of dopri8, and with it its steps, magnify rounding
    steps = {"first_step": 0.08, "min_step": 0.08, "max_step": 0.08, "rtol": 1e-3, "atol": 1e-3}
    asked = {"t_span": spans, "args": (mu,), "method": method, "dense": True, **steps}
    x = torch.tensor([0.0, 0.31, 0.77, 1.0])
    found = []
    for field in (fastode.compile(van_der_pol, memory=memory), van_der_pol):
        with fastode.stats() as log:
            solution = fastode.solve(field, y0, **asked)
        values = solution.sol(spans[1][:, None] * x)
        weights = torch.cos(torch.arange(values.numel(), dtype=values.dtype)).view_as(values)
        loss = (values * weights).sum() + solution.ys.square().sum()
        found.append((served(log), solution, values, torch.autograd.grad(loss, [y0, mu])))
    (engine, ours, values, got), (_, loop, expected, wanted) = found
    assert engine == "compiled"
    assert_alike(ours, loop, 1e-12)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))
    with torch.no_grad():
        plain = fastode.solve(fastode.compile(van_der_pol), y0, **asked)
        assert torch.equal(plain.sol(spans[1][:, None] * x), values)


def test_dense_output_of_rows_that_fail_or_have_no_span():
    y0 = torch.tensor([[4.0], [0.1], [float("nan")], [9.0], [1.0]], dtype=torch.float64, requires_grad=True)
    spans = (torch.zeros(5), torch.tensor([1.0, 1.0, 1.0, -0.5, 0.0]))
    t = torch.tensor([[0.5, 0.9], [0.01, 1.0], [0.0, 0.5], [-0.1, -0.5], [0.0, 0.0]])
    found = []
    for field in (fastode.compile(root), root):
        solution = fastode.solve(field, y0, spans, max_steps=200, dense=True)
        values = solution.sol(t)
        found.append((values, *torch.autograd.grad(values.nan_to_num().sum(), y0)))
    (values, grad), (expected, wanted) = found
    assert torch.equal(values.isnan(), expected.isnan())
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    others = [0, 2, 3, 4]  # the second row ends where the square root has no derivative
    assert grad[others].isfinite().all()
    torch.testing.assert_close(grad[others], wanted[others], rtol=1e-8, atol=1e-10)


def test_a_row_that_ends_where_there_is_no_derivative_spoils_no_shared_gradient():
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[4.0], [0.1], [9.0]], dtype=torch.float64)
    field = fastode.compile(lambda t, y: rate * root(t, y))
    solution = fastode.solve(field, y0, (0.0, 1.0), max_steps=200, dense=True)
    assert solution.failed.tolist() == [False, True, False]
    early = solution.sol(torch.tensor([0.0, 1e-3]))  # of the second row, too
    (grad,) = torch.autograd.grad(early.sum(), rate)
    assert grad.isfinite()


def test_a_row_is_the_same_alone_and_in_any_batch():
    y0, mu = states(70, torch.float32)
    field = fastode.compile(van_der_pol)
    ts = torch.linspace(0, 3, 5)
    together = fastode.solve(field, y0, t_eval=ts, args=(mu,))
    for row in (0, 1, 33, 69):
        alone = fastode.solve(field, y0[row : row + 1], t_eval=ts, args=(mu[row : row + 1],))
        assert torch.equal(alone.ys[0], together.ys[row])
        assert alone.stats.n_accepted[0] == together.stats.n_accepted[row]


@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun"])
def test_a_memory_budget_bounds_the_states_that_are_kept_and_changes_nothing(method, monkeypatch):
    records = []

    def integrate(*args):
        records.append(plain(*args))
        return records[-1]

    plain = NativeRows.integrate
    monkeypatch.setattr(NativeRows, "integrate", integrate)
    rows, of_one_row = 21, 2 * 8
    spans = (torch.zeros(rows), torch.linspace(-1.0, 2.0, rows) + 0.01)
    found = []
    for states_a_row in (None, 4, 2, 0):
        y0, mu = states(rows)
        memory = None if states_a_row is None else max(1, states_a_row * rows * of_one_row)
        field = fastode.compile(van_der_pol, memory=memory)
        solution = fastode.solve(field, y0, spans, args=(mu,), method=method, rtol=1e-6, atol=1e-6)
        found.append(torch.autograd.grad(solution.ys.square().sum(), [y0, mu]))
        steps = int(solution.stats.n_accepted.sum())
        if states_a_row is None:
            assert records[-1].states == steps
        else:
            assert records[-1].states <= rows * max(2, states_a_row) < steps
    for grads in found[1:]:
        for a, b in zip(grads, found[0], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads):
    found = []
    before = torch.get_num_threads()
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            y0, mu = states(300, torch.float32)
            weight = torch.full((), 0.9, requires_grad=True)
            field = fastode.compile(lambda t, y, mu, w=weight: w * van_der_pol(t, y, mu))
            solution = fastode.solve(field, y0, (0.0, 3.0), args=(mu,))
            found.append((solution.y, *torch.autograd.grad(solution.y.square().sum(), [y0, mu, weight])))
        finally:
            torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_failures_stop_alone_and_bring_no_nan():
    y0 = torch.tensor([[4.0], [0.1], [float("nan")], [9.0]], dtype=torch.float64, requires_grad=True)
    asked = {"t_span": (torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, 0.0])), "max_steps": 200}
    ours = fastode.solve(fastode.compile(root), y0, **asked)
    loop = fastode.solve(root, y0, **asked)
    assert torch.equal(ours.status, loop.status)
    assert Status(int(ours.status[0])) == Status.FINISHED
    assert ours.failed.tolist() == [False, True, True, False]
    good = ~ours.failed
    (grad,) = torch.autograd.grad(ours.y[good].sum(), y0)
    assert grad.isfinite().all()
    (wanted,) = torch.autograd.grad(loop.y[good].sum(), y0)
    torch.testing.assert_close(grad[good], wanted[good], rtol=1e-9, atol=1e-12)


def test_gradients_of_spans():
    y0, mu = states(9)
    ends = torch.linspace(0.5, 1.5, 9, dtype=torch.float64, requires_grad=True)
    starts = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    grads = []
    for field in (fastode.compile(van_der_pol), van_der_pol):
        solution = fastode.solve(field, y0, (starts, ends), args=(mu,), rtol=1e-9, atol=1e-9)
        grads.append(torch.autograd.grad(solution.y.square().sum(), [starts, ends]))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_no_rows_and_states_of_more_axes():
    field = fastode.compile(lambda t, y: -y)
    empty = fastode.solve(field, torch.zeros(0, 2), (0.0, 1.0))
    assert empty.ys.shape == (0, 2, 2)
    y0 = torch.randn(5, 3, 2, dtype=torch.float64)
    solution = fastode.solve(field, y0, (0.0, 1.0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.y, y0 * math.exp(-1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"event_fn": lambda t, y: y[:, 0] - 0.5}, "an event"),
        ({"jump_t": torch.tensor([0.5])}, "jump_t"),
        ({"gradient": "autograd"}, "gradient='autograd'"),
        ({"engine": "reference"}, "engine='reference'"),
    ],
)
def test_what_the_loop_does(asked, reason):
    y0, _ = states(4)
    field = fastode.compile(lambda t, y: -y)
    with fastode.stats() as log:
        ours = fastode.solve(field, y0, (0.0, 1.0), **asked)
    assert log[0].engine != "compiled"
    assert reason in log[0].reason
    torch.testing.assert_close(ours.y, fastode.solve(field.func, y0, (0.0, 1.0), **asked).y, rtol=0, atol=0)
