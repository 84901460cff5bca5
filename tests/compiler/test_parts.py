"""States of several parts: packed into one tensor, solved natively, and given back as they were."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.errors import FieldError, InvalidArgument

from .drawn import ADAPTIVE, FIXED, Drawn
from .running import assert_close


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


class Motion(NamedTuple):
    place: Tensor
    speed: Tensor


class Flow(nn.Module):
    """Points, the logarithm of their density by torch.autograd, and the length of their way."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + 1, 16), nn.Tanh(), nn.Linear(16, dim))

    def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = state[0]
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            slope = self.net(torch.cat([z, t.expand(len(z), 1)], 1))
            trace = sum(
                torch.autograd.grad(slope[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(z.shape[1])
            )
        return slope, -trace[:, None], slope.square().sum(1)


def flow_state(rows: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    z = torch.randn(rows, 2, dtype=dtype)
    return z, z.new_zeros(rows, 1), z.new_zeros(rows)


def accounts(func: Any, solve: Callable[[Any], Any]) -> tuple[Any, fastode.SolveStats]:
    """What a solve of ``func`` gives, and its account."""
    with fastode.stats() as log:
        found = solve(func)
    return found, log[0]


def assert_native(func: Any, solve: Callable[[Any], Any], tolerance: float = 1e-10) -> list[Tensor]:
    """Compiled, ``func`` has the steps and the tensors of the step loop."""
    wanted, loop = accounts(func, solve)
    found, native = accounts(fastode.compile(func), solve)
    assert (native.engine, native.reason) == ("compiled", "")
    assert loop.engine != "compiled"
    for name in ("n_func", "n_accepted", "n_rejected"):
        assert getattr(native, name) == getattr(loop, name), name
    assert fastode.tree.flatten(found)[1] == fastode.tree.flatten(wanted)[1]
    tensors = list(fastode.tree.flatten(found)[0])
    for i, (a, b) in enumerate(zip(tensors, fastode.tree.flatten(wanted)[0], strict=True)):
        assert a.dtype == b.dtype
        assert_close(a, b, tolerance, f"tensor {i}")
    return tensors


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "fehlberg2", "adaptive_heun", "rk4", "euler"])
@pytest.mark.parametrize("gradient", ["autograd", "discrete"])
def test_a_flow_written_with_autograd(method: str, gradient: str) -> None:
    func, t = Flow(), torch.tensor([1.0, 0.4, 0.0])
    how = {"rtol": 1e-5, "atol": 1e-6, "method": method}
    if method in FIXED:
        how["options"] = {"step_size": 0.1}
    y0 = tuple([p.requires_grad_() for p in flow_state()])

    def solve(f: Any) -> tuple[Any, ...]:
        if gradient == "discrete":
            states = fastode.odeint_adjoint(f, y0, t, gradient="discrete", **how)
        else:
            states = fastode.odeint(f, y0, t, **how)
        loss = states[0][-1].square().mean() - states[1][-1].mean() + states[2].sin().sum()
        return *states, *torch.autograd.grad(loss, [*y0, *func.parameters()])

    assert_native(func, solve)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("solver", ["odeint", "solve", "dense"])
def test_random_solves(solver: str, seed: int) -> None:
    drawn = Drawn(5000 + seed)
    choose, inner = drawn.choose, drawn.field
    method = choose.choice(ADAPTIVE + FIXED)
    options = {} if method in ADAPTIVE else {"step_size": 0.1}
    loose = choose.random() < 0.5

    class InParts(nn.Module):
        """The drawn field of one part, and two that follow it."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, t: Tensor, state: dict[str, Any], *args: Any) -> dict[str, Any]:
            slope = self.inner(t, state["y"], *args)
            one, two = state["more"]
            return {"more": [slope[:, 0] - one, two.mT * 0.1], "y": slope}

    y0 = {"y": drawn.y0, "more": [drawn.y0[:, -1].detach() + 1, 10 * torch.randn(drawn.rows, 2, 2)]}
    drawn.field = InParts()  # type: ignore[assignment]
    how = drawn.how | {"method": method}
    if loose:
        how["rtol"] = (how["rtol"], 10 * how["rtol"], 1e-2)

    def solve(f: Any) -> list[Tensor]:
        if solver == "solve":
            first = {} if method in ADAPTIVE else {"first_step": 0.1}
            found = fastode.solve(f, y0, t_eval=drawn.t, args=drawn.args, **how, **first)
            counts = [found.stats.n_accepted, found.stats.n_rejected, found.status]
            states = [found.ys, found.y]
            return [*fastode.tree.flatten(states)[0], *[c.to(drawn.y0.dtype) for c in counts]]
        if solver == "dense":
            sol = fastode.odeint_dense(f, y0, drawn.t[0], drawn.t[-1], *drawn.args, options=options, **how)
            return list(fastode.tree.flatten([sol(drawn.t), sol(drawn.t.mean())])[0])
        found = fastode.odeint(f, y0, drawn.t, *drawn.args, options=options, **how)
        return list(fastode.tree.flatten(found)[0])

    drawn.compare(solve)


def test_the_norm_is_the_largest_of_the_parts() -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cos(20 * t) * y[0], 0 * y[1]

    def joined(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat(func(t, (y[:, :1], y[:, 1:])), 1)

    y0, t, how = (torch.ones(3, 1), torch.ones(3, 99)), torch.tensor([0.0, 1.0]), {"rtol": 1e-6, "atol": 1e-6}
    assert_native(func, lambda f: fastode.odeint(f, y0, t, **how))
    steps = fastode.last_stats().n_accepted
    fastode.odeint(fastode.compile(joined), torch.cat(y0, 1), t, **how)
    assert fastode.last_stats().n_accepted < steps
    rows = fastode.solve(fastode.compile(func_of_rows), y0, (0.0, 1.0), rtol=1e-6, atol=1e-6)
    assert fastode.last_stats().engine == "compiled"
    loop = fastode.solve(func_of_rows, y0, (0.0, 1.0), rtol=1e-6, atol=1e-6)
    assert rows.stats.n_accepted.tolist() == loop.stats.n_accepted.tolist() == [steps] * 3


def func_of_rows(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cos(20 * t)[:, None] * y[0], 0 * y[1]


@pytest.mark.parametrize("kind", [tuple, list, Motion, dict])
def test_the_structure_is_given_back(kind: type) -> None:
    def made(place: Tensor, speed: Tensor) -> Any:
        if kind is dict:
            return {"speed": speed, "place": place}
        return kind(place, speed) if kind is Motion else kind((place, speed))

    def func(t: Tensor, y: Any) -> Any:
        assert type(y) is kind
        place, speed = (y["place"], y["speed"]) if kind is dict else y
        return made(speed, -place)

    y0, t = made(torch.randn(5, 3), torch.randn(5, 3)), torch.linspace(0, 2, 4)
    found, _ = accounts(fastode.compile(func), lambda f: fastode.odeint(f, y0, t))
    assert type(found) is kind
    assert_native(func, lambda f: fastode.odeint(f, y0, t))


def test_parts_of_one_axis_are_rows_where_they_can_be() -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], torch.sin(-y[0])

    field = fastode.compile(func)
    y0 = torch.randn(50), torch.randn(50)
    assert_native(func, lambda f: fastode.odeint(f, y0, torch.tensor([0.0, 1.0])))
    program = fastode.explain(field, y0).program
    assert program is not None and program.state_width == 2


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_parts_of_one_axis_that_mix_are_one_row(method: str) -> None:
    gravity, spin = torch.tensor([0.0, 0.0, -9.8]), torch.randn(3, 3)

    def func(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        place, speed, turned, scale = y
        return speed, gravity, spin @ turned * scale.sum() + speed.cumsum(0), torch.cos(t)[None] * place[:1]

    y0 = torch.zeros(3), torch.ones(3), torch.randn(3), torch.ones(1)
    assert_native(func, lambda f: fastode.odeint(f, y0, torch.linspace(0, 1, 5), method=method))
    assert fastode.explain(func, y0).compiles


def test_parts_without_an_axis() -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], -y[0]

    y0 = torch.tensor(1.0), torch.tensor(0.0)
    y = assert_native(func, lambda f: fastode.odeint(f, y0, torch.linspace(0, 1, 5)))
    assert [p.shape for p in y] == [(5,), (5,)]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_rows(rows: int) -> None:
    func, y0 = Flow(), flow_state(rows)
    assert_native(func, lambda f: fastode.odeint(f, y0, torch.tensor([0.0, 1.0])))


def test_float32() -> None:
    func = Flow().float()
    y0 = flow_state(dtype=torch.float32)
    found = assert_native(func, lambda f: fastode.odeint(f, y0, torch.tensor([0.0, 1.0]), rtol=1e-3, atol=1e-3), 1e-4)
    assert found[0].dtype == torch.float32


def test_parts_of_two_dtypes_have_the_wider() -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -y[0], y[0] * y[1]

    y0 = torch.ones(4, 1, dtype=torch.float32), torch.ones(4, 2)
    assert all(p.dtype == torch.float64 for p in assert_native(func, lambda f: fastode.odeint(f, y0, times())))


def times() -> Tensor:
    return torch.linspace(0, 1, 3)


def test_gradients_of_times() -> None:
    func, t = Flow(), torch.linspace(0, 1, 3).requires_grad_()
    y0 = flow_state()

    def solve(f: Any) -> tuple[Tensor, ...]:
        states = fastode.odeint(f, y0, t, rtol=1e-9, atol=1e-9)
        loss = sum((p * p.detach().cos()).sum() for p in states)
        return torch.autograd.grad(loss, [t, *func.parameters()])

    assert_native(func, solve, 1e-6)  # torch differentiates the interpolant at outputs inside steps


@pytest.mark.parametrize(
    "rtol",
    [1e-4, (1e-5, 1e-3), (1e-5, torch.tensor([1e-3, 1e-4])), (torch.tensor([[1e-4]]), torch.full((1, 2), 1e-5))],
    ids=["number", "numbers", "of features", "tensors"],
)
def test_tolerances_of_parts(rtol: Any) -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.sin(9 * t) - y[0], torch.stack([y[1][:, 1], -30 * y[1][:, 0]], 1)

    y0 = torch.ones(4, 1), torch.ones(4, 2)
    assert_native(func, lambda f: fastode.odeint(f, y0, times(), rtol=rtol, atol=(1e-6, 1e-4)))


def test_what_takes_the_step_loop() -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -y[0], y[0] * y[1]

    y0 = torch.ones(4, 1), torch.ones(4, 2)

    def reason(field: Any = None, **how: Any) -> str:
        fastode.odeint(field or fastode.compile(func), y0, times(), **how)
        assert fastode.last_stats().engine != "compiled"
        return fastode.last_stats().reason

    rows = torch.full((4, 1), 1e-5)
    assert reason(rtol=(rows, 1e-5)) == "not native: tolerances of each row"
    assert reason(options={"norm": "max"}) == "not native: option 'norm'"
    called = fastode.compile(func)
    called.callback_step = lambda t, y, dt: None
    assert reason(called) == "not native: callbacks"
    mixing = fastode.compile(lambda t, y: (y[0] - y[0].mean(0), y[1]))
    assert "combines different rows" in reason(mixing)
    assert not fastode.explain(mixing, y0).compiles
    assert "equally many rows" in str(fastode.explain(func, (torch.ones(4, 1), torch.ones(3, 2))))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda y: y[0], "returned 1 tensors"),
        (lambda y: (y[0], y[1], y[1]), "returned 3 tensors"),
        (lambda y: (y[1], y[1]), "part 0 of func"),
    ],
    ids=["one", "three", "shape"],
)
def test_values_that_do_not_fit(value: Callable[[Any], Any], words: str) -> None:
    y0 = torch.ones(4, 1), torch.ones(4, 2)
    for field in (lambda t, y: value(y), fastode.compile(lambda t, y: value(y))):
        with pytest.raises(FieldError, match=words):
            fastode.odeint(field, y0, times())


def test_wrong_tolerances_and_states() -> None:
    field = fastode.compile(lambda t, y: y)
    y0 = torch.ones(4, 1), torch.ones(4, 2)
    with pytest.raises(InvalidArgument, match="same length as the tuple"):
        fastode.odeint(field, y0, times(), rtol=(1e-3, 1e-3, 1e-3))
    with pytest.raises(InvalidArgument, match="must not be negative"):
        fastode.odeint(field, y0, times(), atol=(1e-3, -1.0))
    with pytest.raises(InvalidArgument, match="holds a float"):
        fastode.odeint(field, (torch.ones(4, 1), 1.0), times())
    with pytest.raises(InvalidArgument, match="empty"):
        fastode.odeint(field, (), times())


def test_the_field_is_looked_at_anew() -> None:
    func = Flow()
    field = fastode.compile(func)
    y0, t = flow_state(), torch.tensor([0.0, 1.0])

    def check(which: nn.Module) -> None:
        for _ in range(3):  # the third one repeats the second
            found, account = accounts(field, lambda f: fastode.odeint(f, y0, t))
            assert account.engine == "compiled"
            for a, b in zip(found, fastode.odeint(which, y0, t), strict=True):
                assert_close(a, b, 1e-10, "state")

    check(func)
    with torch.no_grad():
        func.net[0].weight.mul_(1.5)
    check(func)
    func.net[1] = nn.Sigmoid()
    check(func)
    field.func = other = Flow()
    check(other)
    field.memory = 2000
    check(other)
    check_copy = copy.deepcopy(field)
    assert accounts(check_copy, lambda f: fastode.odeint(f, y0, t))[1].engine == "compiled"
    assert len(list(field.parameters())) == len(list(other.parameters()))


def test_a_memory_budget() -> None:
    func, t = Flow(), torch.tensor([0.0, 3.0])
    y0 = tuple([p.requires_grad_() for p in flow_state()])
    grads = []
    for memory in (None, 2000):
        y = fastode.odeint(fastode.compile(func, memory=memory), y0, t, rtol=1e-7)
        assert fastode.last_stats().engine == "compiled"
        grads.append(torch.autograd.grad(y[0].sum() + y[1].sum(), y0))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_rows_do_not_depend_on_each_other() -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor], rate: Tensor) -> tuple[Tensor, Tensor]:
        return y[1] - y[0], torch.sin(rate * t)[:, None] * y[0].expand(-1, 2).sum(1, keepdim=True)

    field, rate = fastode.compile(func), torch.logspace(-1, 1.5, 40)
    y0 = torch.randn(40, 1), torch.randn(40, 1)
    whole = fastode.solve(field, y0, (0.0, 2.0), args=(rate,))
    assert fastode.last_stats().engine == "compiled"
    some = torch.tensor([31, 2, 17])
    few = fastode.solve(field, tuple([p[some] for p in y0]), (0.0, 2.0), args=(rate[some],))
    for a, b in zip(few.ys, whole.ys, strict=True):
        torch.testing.assert_close(a, b[some], rtol=0, atol=0)
    assert few.stats.n_accepted.tolist() == whole.stats.n_accepted[some].tolist()


def test_tolerances_of_rows_in_solve() -> None:
    y0 = torch.ones(4, 1), torch.ones(4, 2)
    rtol = torch.tensor([1e-3, 1e-5, 1e-7, 1e-9])[:, None], 1e-2

    def solve(f: Any) -> tuple[Tensor, ...]:
        found = fastode.solve(f, y0, (0.0, 3.0), rtol=rtol, atol=1e-10)
        return *found.ys, found.stats.n_accepted

    (*_, steps) = assert_native(func_of_rows, solve)
    assert steps.tolist() == sorted(steps.tolist()) and steps[0] < steps[-1]


class WeightsOfTime(nn.Module):
    """A mixture of planar flows whose weights are functions of time: the batch is the second axis of its products."""

    def __init__(self, dim: int = 2, members: int = 70) -> None:
        super().__init__()
        self.shapes = {"into": (members, dim, 1), "bias": (members, 1, 1), "out": (members, 1, dim)}
        numbers = sum(math.prod(shape) for shape in self.shapes.values())
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, numbers))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, _ = state
        with torch.set_grad_enabled(True):
            z.requires_grad_(True)
            numbers = self.net(t.reshape(1, 1)).reshape(-1).split([math.prod(s) for s in self.shapes.values()])
            into, bias, out = (n.reshape(s) for n, s in zip(numbers, self.shapes.values(), strict=True))
            hidden = torch.tanh(z[None].repeat(len(into), 1, 1) @ into + bias)
            slope = torch.matmul(hidden, torch.sigmoid(out)).mean(0)
            rows = [torch.autograd.grad(column.sum(), z, create_graph=True)[0] for column in slope.unbind(1)]
        return slope, -torch.stack(rows, 1).contiguous().diagonal(dim1=1, dim2=2).sum(1, keepdim=True)


def test_weights_that_are_functions_of_time() -> None:
    func, t = WeightsOfTime(), torch.tensor([1.0, 0.0])
    y0 = torch.randn(30, 2), torch.zeros(30, 1)

    def solve(f: Any) -> tuple[Tensor, ...]:
        z, density = fastode.odeint_adjoint(f, y0, t, rtol=1e-5, atol=1e-5, gradient="discrete")
        loss = z[-1].square().mean() - density[-1].mean()
        return z, density, *torch.autograd.grad(loss, list(func.parameters()))

    assert_native(func, solve)
