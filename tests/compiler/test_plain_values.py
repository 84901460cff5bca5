"""Numbers that a field reads are written into its program: another one is seen by the next solve."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode

from .running import assert_close

T = torch.tensor([0.0, 0.5, 1.0])
RATE = 1.0


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was traced."""
    seen: list[Any] = []
    trace = fastode.compiler.compiled.trace

    def noted(func: Any, **kind: Any) -> Any:
        seen.append(func)
        return trace(func, **kind)

    monkeypatch.setattr("fastode.compiler.compiled.trace", noted)
    yield seen


class Numbers(nn.Module):
    """Reads numbers of every kind, by a property and by a method too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.scale, self.mode, self.option = 1.0, "soft", None
        self.config = SimpleNamespace(width=2, deep={"power": 2}, steps=[1.0, 3.0])
        self.calls = self.epoch = 0

    @property
    def doubled(self) -> float:
        return 2 * self.scale

    def bent(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if self.mode == "soft" else x.clamp(-1, 1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        slope = self.bent(self.net(y)) * self.doubled - y.abs() ** self.config.deep["power"]
        return slope * self.config.width - self.config.steps[1] * y + (0.0 if self.option is None else self.option)

    def training_step(self) -> int:
        return self.epoch


def check(field: fastode.CompiledField, solve: Callable[[Any], Any] | None = None) -> None:
    """Solves of the field, the short ones too, are those of its function as it is now."""
    y0 = 0.3 * torch.ones(3, 2)
    solve = solve or (lambda f: fastode.odeint(f, y0, T, rtol=1e-6, atol=1e-6))
    for _ in range(4):
        found = solve(field)
        assert fastode.last_stats().engine == "compiled", fastode.last_stats()
        assert_close(found, solve(field.func), 1e-10)


CHANGES: dict[str, Callable[[Numbers], None]] = {
    "attribute": lambda f: setattr(f, "scale", 3.0),
    "text": lambda f: setattr(f, "mode", "hard"),
    "nothing": lambda f: setattr(f, "option", 1.5),
    "of an object": lambda f: setattr(f.config, "width", 5),
    "in a dictionary": lambda f: f.config.deep.update(power=3),
    "in a list": lambda f: f.config.steps.__setitem__(1, -1.0),
    "a tensor now": lambda f: setattr(f, "scale", torch.tensor(3.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_number_is_seen(change: str, traces: list[Any]) -> None:
    func = Numbers()
    field = fastode.compile(func)
    check(field)
    CHANGES[change](func)
    check(field)
    assert len(traces) == 2


def test_it_is_seen_in_parts_and_rows() -> None:
    func = Numbers()

    def parts(f: Any) -> Tensor:
        def joined(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return func(t, state[0]), -func.scale * state[1]

        made.setdefault("field", fastode.compile(joined))
        return fastode.odeint(made["field"] if isinstance(f, fastode.CompiledField) else joined, y0, T)[1]

    made: dict[str, Any] = {}
    y0 = 0.3 * torch.ones(3, 2), torch.ones(3)
    field = fastode.compile(func)
    for scale in (1.0, 2.0, 0.5):
        func.scale = scale
        check(field, parts)
        check(field, lambda f: fastode.solve(f, y0[0], (0.0, 1.0)).y)


def test_enclosing_and_global_variables(traces: list[Any]) -> None:
    global RATE
    rate, shared = 1.0, [1.0]
    field = fastode.compile(functools.partial(lambda of, t, y: -rate * y * RATE * of[0], shared))
    check(field)
    shared[0] = 0.5
    check(field)
    rate = 2.0
    check(field)
    RATE = 3.0
    check(field)
    assert len(traces) == 4
    RATE = 1.0


def test_methods_that_a_function_calls(traces: list[Any]) -> None:
    class Model:
        scale, width, step = 1.0, 2.0, 0

        @property
        def doubled(self) -> float:
            return 2 * self.scale

        @staticmethod
        def bent(x: Tensor) -> Tensor:
            return torch.tanh(RATE * x)

        def slope(self, y: Tensor) -> Tensor:
            return self.bent(y) * self.doubled - self.width * y

        def training_step(self) -> int:
            return self.step

    global RATE
    model = Model()
    model.scale, model.width, model.step = 1.5, 2.5, 0
    field = fastode.compile(lambda t, y: model.slope(y))
    check(field)
    model.scale = 3.0
    check(field)
    model.width = 0.5
    check(field)
    RATE = 2.0
    check(field)
    model.step = 1
    check(field)
    assert len(traces) == 4
    RATE = 1.0


def test_what_counts_or_is_not_read_costs_no_trace(traces: list[Any]) -> None:
    func = Numbers()
    field = fastode.compile(func)
    y0 = torch.ones(3, 2)
    for epoch in range(5):
        func.calls, func.epoch = 0, epoch
        fastode.odeint(field, y0, T)
    assert len(traces) == 1 and func.calls == 0
    func.scale = 1.0  # another object with the same value
    fastode.odeint(field, y0, T)
    assert len(traces) == 1


def test_what_grows_beside_a_field_is_not_looked_at() -> None:
    func = Numbers()
    func.history = [0.5] * 1000
    func.config.log = {"loss": [1.0] * 1000}
    field, y0 = fastode.compile(func), torch.ones(3, 2)
    fastode.odeint(field, y0, T)
    assert field.reach is not None
    read = {c.key for c in field.reach.contents}
    assert len(field.reach.contents) < 30 and {"scale", "mode", "option", "width", "power", 1} <= read
    assert not read & {"calls", "epoch", "history", "log", "loss"}


STEP = weight = 0


def test_a_global_variable_named_like_an_attribute_is_not_read(traces: list[Any]) -> None:
    global STEP, weight
    net, y0 = nn.Linear(2, 2), torch.ones(3, 2)
    field = fastode.compile(lambda t, y: y @ net.weight.T)
    for step in range(3):
        STEP = weight = step
        fastode.odeint(field, y0, T)
    assert len(traces) == 1


def test_one_that_changes_before_every_solve_is_right_every_time(traces: list[Any]) -> None:
    func = Numbers()
    field, y0 = fastode.compile(func), 0.1 * torch.ones(3, 2)
    for step in range(5):
        func.scale = 1.0 / (1 + step)
        assert_close(fastode.odeint(field, y0, T), fastode.odeint(func, y0, T), 1e-8)
    assert len(traces) == 5


NET: Any = None


def helper(y: Tensor) -> Tensor:
    return -y


def test_another_object_is_seen(traces: list[Any]) -> None:
    """A module, a function or a record in the place of another."""
    global NET, helper
    NET, net, before = nn.Linear(2, 2), nn.Linear(2, 2), helper

    class Field:
        def __init__(self) -> None:
            self.config = SimpleNamespace(weight=torch.ones(2), power=2)

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            slope = torch.tanh(net(y)) + torch.sin(NET(y)) + helper(y)
            return slope * self.config.weight - y.abs() ** self.config.power

    func = Field()
    field = fastode.compile(func)
    check(field)
    net = nn.Linear(2, 2)
    check(field)
    NET = nn.Linear(2, 2)
    check(field)
    helper = lambda y: -2 * y  # noqa: E731
    check(field)
    func.config = SimpleNamespace(weight=2 * torch.ones(2), power=3)
    check(field)
    assert len(traces) == 5
    helper = before
