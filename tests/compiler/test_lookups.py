"""Fields that index by what they compute from time or state: controls of a neural CDE, sampled inputs, tables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.compiler.derive import adjoint, push_tangents
from fastode.compiler.evaluate import evaluate
from fastode.compiler.program import Builder
from fastode.compiler.trace import trace
from fastode.errors import CannotCompile, StepSizeUnderflow
from fastode.nn import CNF

from .running import assert_close, by_torch, native
from .solving import Timed, assert_same


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


T = torch.tensor([0.0, 1.3, 3.0])
#: fixed steps, as rounding decides which side of a knot an adaptive step falls on
RK4 = {"method": "rk4", "options": {"step_size": 0.1}}


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


class ControlledByPath(nn.Module):
    """A neural CDE, ``dz = f(z) dX``, with X a cubic on each piece: as torchcde has it."""

    def __init__(self, rows: int, learnt: bool, pieces: int = 6, channels: int = 3, hidden: int = 4) -> None:
        super().__init__()
        self.net = nn.Linear(hidden, hidden * channels)
        self.shape = (hidden, channels)
        self.register_buffer("knots", torch.linspace(0.0, 3.5, pieces + 1))
        for name in ("b", "two_c", "three_d"):
            setattr(self, name, torch.randn(rows, pieces, channels, requires_grad=learnt))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        index = torch.bucketize(t.detach(), self.knots.detach()).sub(1).clamp(0, self.b.size(-2) - 1)
        x = t - self.knots[index]
        inner = self.two_c[..., index, :] + self.three_d[..., index, :] * x
        slope = self.b[..., index, :] + inner * x
        return (self.net(z).tanh().view(*z.shape[:-1], *self.shape) @ slope.unsqueeze(-1)).squeeze(-1)


class Interpolated(nn.Module):
    """Driven by a line through sampled values, shared by all rows."""

    def __init__(self, samples: int = 40) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.samples = nn.Parameter(torch.randn(samples))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        place = t / 0.5
        index = place.long()
        left, right = self.samples[index], self.samples[index + 1]
        u = left + (right - left) * (place - index)
        return torch.tanh(self.net(torch.cat([y, u.expand(len(y), 1)], 1)))


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("learnt", [False, True])
def test_a_neural_cde_and_its_gradients(rows: int, learnt: bool) -> None:
    torch.manual_seed(0)
    func = ControlledByPath(rows, learnt)
    z0 = torch.randn(rows, 4, requires_grad=True)
    leaves = [*func.parameters(), func.b, func.two_c, func.three_d]
    assert_same(func, z0, T, leaves=leaves, **RK4)
    assert_same(func, z0, T.flip(0), leaves=leaves, **RK4)


def test_other_paths_are_seen_by_the_next_solve() -> None:
    func = ControlledByPath(5, False)
    field = fastode.compile(func)
    for rows in (5, 5, 8):
        func.b, func.two_c, func.three_d = (torch.randn(rows, 6, 3) for _ in range(3))
        func.knots = torch.sort(torch.rand(7)).values * 3
        z0 = torch.randn(rows, 4)
        with fastode.stats() as log:
            z = fastode.odeint(field, z0, T, **RK4)
        assert log[0].engine == "compiled"
        assert_close(z, fastode.odeint(func, z0, T, **RK4), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("how", [RK4, {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}], ids=["rk4", "dopri5"])
def test_an_input_between_samples_is_learnt(how, dtype) -> None:
    torch.manual_seed(1)
    func = Interpolated().to(dtype)
    tolerance = (1e-9, 1e-8) if dtype == torch.float64 else (2e-4, 2e-3)
    y0, t = torch.randn(20, 2, dtype=dtype, requires_grad=True), T.to(dtype)
    assert_same(func, y0, t, leaves=list(func.parameters()), tolerance=tolerance, **how)


def test_times_and_threads_change_nothing() -> None:
    func = Interpolated()
    found = []
    threads = torch.get_num_threads()
    for n in (1, 3):
        torch.set_num_threads(n)
        y0, t = torch.linspace(-1, 1, 800).view(400, 2).requires_grad_(), T.clone().requires_grad_()
        y = fastode.odeint(fastode.compile(func), y0, t, **RK4)
        found.append([y, *torch.autograd.grad(y.square().sum(), [y0, t, *func.parameters()])])
    torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


class OfTheState(nn.Module):
    """A table in every feature of the state, linear between its entries: an empirical law."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(12, 2))
        self.register_buffer("edges", torch.linspace(-2.0, 2.0, 11))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        cell = torch.searchsorted(self.edges, y[:, 0].contiguous(), right=True)
        return self.table[cell] - 0.5 * y


def test_a_table_in_the_state_of_each_row() -> None:
    func = OfTheState()
    y0 = torch.randn(30, 2, requires_grad=True)
    assert_same(func, y0, T, leaves=list(func.parameters()), **RK4)


def by_table_of_the_row(t: Tensor, y: Tensor, table: Tensor) -> Tensor:
    return y * table.index_select(2, (t * 2).to(torch.int32).reshape(1)).flatten(1)


def by_several(t: Tensor, y: Tensor, table: Tensor) -> Tensor:
    cells = torch.bucketize(y, torch.tensor([-0.5, 0.0, 0.5]), out_int32=True)
    return table[:, cells].sum(0) * torch.cos(t) - y


def from_the_end(t: Tensor, y: Tensor, table: Tensor) -> Tensor:
    return y * table[-1 - t.floor().long()]


def beside_new_axes(t: Tensor, y: Tensor, table: Tensor) -> Tensor:
    return y * table[None, ..., 1:, t.long(), 0][0].sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("func", "shape"),
    [
        (by_table_of_the_row, (13, 2, 7)),
        (by_several, (3, 4)),
        (from_the_end, (5, 2)),
        (beside_new_axes, (13, 3, 4, 2)),
    ],
)
def test_other_ways_to_write_it(func, shape) -> None:
    torch.manual_seed(3)
    table = torch.randn(shape).requires_grad_()
    y0 = torch.randn(13, 2, requires_grad=True)
    assert_same(func, y0, T, args=(table,), leaves=[table], **RK4)


def test_rows_at_times_of_their_own() -> None:
    knots = torch.linspace(0.03, 3, 7)  # no step ends there
    values = torch.randn(8, 2)

    def func(t: Tensor, y: Tensor, values: Tensor) -> Tensor:
        index = torch.bucketize(t, knots)
        return torch.sin(y) + values[index] * (t - 1)[:, None]

    ends = torch.linspace(0.5, 2.9, 20)
    found = []
    for field in (func, fastode.compile(func)):
        y0, shared = torch.linspace(-1, 1, 40).view(20, 2).requires_grad_(), values.clone().requires_grad_()
        solution = fastode.solve(field, y0, (torch.zeros(20), ends), args=(shared,), method="rk4", first_step=0.1)
        grads = torch.autograd.grad(solution.ys.square().sum(), [y0, shared])
        found.append((fastode.last_stats().engine, solution.stats.n_func, solution.ys, *grads))
    assert found[1][0] == "compiled" != found[0][0]
    assert torch.equal(found[0][1], found[1][1])
    for a, b in zip(found[0][2:], found[1][2:], strict=True):
        assert_close(b, a, 1e-11)


def test_paths_of_rows_at_times_of_their_own() -> None:
    knots = torch.linspace(0.03, 3, 7)

    def func(t: Tensor, z: Tensor, path: Tensor) -> Tensor:
        piece = (torch.bucketize(t, knots) - 1).clamp(0, 5)
        return torch.tanh(z) * path[torch.arange(len(t)), piece]

    found = []
    for field in (func, fastode.compile(func)):
        z0, path = torch.linspace(-1, 1, 40).view(20, 2).requires_grad_(), torch.randn(20, 6, 2, generator=seed(0))
        path.requires_grad_()
        spans = torch.zeros(20), torch.linspace(0.5, 2.9, 20)
        solution = fastode.solve(field, z0, spans, args=(path,), method="rk4", first_step=0.1)
        grads = torch.autograd.grad(solution.ys.square().sum(), [z0, path])
        found.append((fastode.last_stats().engine, solution.ys, *grads))
    assert found[1][0] == "compiled" != found[0][0]
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        assert_close(b, a, 1e-11)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_flow_whose_field_is_switched(trace: str) -> None:
    """The table follows the state, and has its part in the divergence."""

    class Switched(Timed):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            slopes = torch.stack([super().forward(t, y), torch.tanh(y), -y], 1)
            return slopes[:, (3 * t).floor().long().clamp(0, 2)]

    func, x = Switched(), torch.randn(6, 2)
    found = []
    for compiled in (True, False):
        flow = CNF(func, 2, trace=trace, method="rk4", options={"step_size": 0.11}, compile=compiled)
        flow.log_prob(x)
        assert (flow.served_by[0] == "compiled") == compiled
        torch.manual_seed(0)
        loss = flow.log_prob(x).sum()
        found.append([loss.detach(), *torch.autograd.grad(loss, list(func.parameters()))])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, 1e-10)


def test_what_is_beyond_the_table_is_not_a_number() -> None:
    table = torch.randn(3)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return y * table[(2 * t).long()]

    y0 = torch.ones(4, 2)
    field = fastode.compile(func)
    assert bool(fastode.odeint(field, y0, torch.tensor([0.0, 1.4]), **RK4).isfinite().all())
    with pytest.raises(IndexError):
        fastode.odeint(func, y0, torch.tensor([0.0, 2.0]))
    with pytest.raises(StepSizeUnderflow):
        fastode.odeint(field, y0, torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("table", ["state", "argument", "time", "vector"])
@pytest.mark.parametrize("number", ["argument", "time", "vector"])
def test_the_operator_and_its_gradient(number: str, table: str) -> None:
    b = Builder(6, (6, 1))
    tables = {
        "state": b.state,
        "argument": lambda: b.argument(0),
        "time": lambda: b.gather([(b.time(), 0)] * 6),
        "vector": lambda: b.vector(0, 6),
    }
    x = tables[table]()
    numbers = {
        "argument": lambda: b.argument(1),
        "time": lambda: b.elementwise("floor", b.elementwise("mul", b.time(), b.literal(10.0))),
        "vector": lambda: b.gather([(b.vector(int(table == "vector"), 2), 1)]),
    }
    value = b.sum(b.lookup(x, numbers[number](), 2))
    program = b.program(b.elementwise("mul", b.gather([(b.state(), 2)]), value))
    constants = [torch.randn(6)] * (table == "vector") + [torch.tensor([9.0, -3.0])] * (number == "vector")
    for rows in (0, 1, 16, 37):
        each = torch.arange(rows).view(rows, 1) % 11 - 5.0  # some beyond either end
        y, arguments, cotangent = torch.randn(rows, 6), [torch.randn(rows, 6), each], torch.randn(rows, 1)
        got, grads = native(program, 0.23, y, arguments, constants, cotangent)
        expected, wanted = by_torch(program, 0.23, y, arguments, constants, cotangent)
        assert_close(got, expected, 1e-12)
        for g, e in zip(grads, wanted, strict=True):
            assert_close(g, e, 1e-12)


def test_the_tangent_is_that_of_torch() -> None:
    b = Builder(6, (1,))
    out = b.lookup(b.elementwise("sin", b.state()), b.argument(0), 2)
    tangent = push_tangents(b, {b.state(): b.vector(0, 6)}, out + 1)[out]
    program = b.program(b.gather([(v, i) for v in (out, tangent) for i in range(2)]))
    y, number, direction = torch.randn(5, 6), torch.tensor([[0.0], [1.0], [-1.0], [2.0], [1.0]]), torch.randn(6)

    def value(y: Tensor) -> Tensor:
        return evaluate(program, 0.0, y, [number], [direction])[0][:, :2]

    _, expected = torch.func.jvp(value, (y,), (direction.expand(5, 6),))
    assert_close(evaluate(program, 0.0, y, [number], [direction])[0][:, 2:], expected, 1e-12)
    assert_close(native(program, 0.0, y, [number], [direction])[0][:, 2:], expected, 1e-12)


def test_what_all_rows_share_is_summed_before_it_is_put_back() -> None:
    b = Builder(2)
    number = b.elementwise("floor", b.time())
    out = b.elementwise("mul", b.state(), b.lookup(b.vector(0, 200), number, 2))
    derived = adjoint(b.program(out), [0], (), shared_time=True)
    (scatter,) = [op for op in derived.program.ops if op.name == "scatter"]
    assert derived.program.ops[scatter.inputs[0]].name == "rows_sum"


def test_explain_shows_the_lookup() -> None:
    text = str(fastode.explain(Interpolated(), torch.randn(4, 2)))
    assert "lookup(samples, " in text


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (lambda t, y: y * torch.ones(3, 3)[t.long(), (2 * t).long()], "by several indices"),
        (lambda t, y: y * torch.ones(11, 3)[torch.arange(11).flip(0), y[:, 0].long() * 0], "by several indices"),
        (lambda t, y: y[y > 0].sum() * y, "torch.where"),
        (lambda t, y: y.repeat(1, 2)[:, torch.bucketize(y[0], torch.ones(2))], "another row"),
        (lambda t, y: y[:, torch.bucketize(t.expand(2), torch.ones(2)).clamp(0, 1)], "one number"),
        (lambda t, y: y * torch.searchsorted(torch.ones(2), t, sorter=torch.arange(2)), "sorter"),
        (lambda t, y: y * torch.searchsorted(torch.ones(y.shape), y), "one line"),
        (lambda t, y: y * t.long().item(), "torch.where"),
        (lambda t, y: y * int(torch.bucketize(t, torch.ones(2))), "torch.where"),
    ],
)
def test_what_is_refused(func, reason: str) -> None:
    with pytest.raises(CannotCompile, match=reason):
        trace(func, (2,))
