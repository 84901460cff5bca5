"""What a solve costs, counted: operators, allocations, evaluations, interpolations. And what it must not save on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stubs import Operators
from torch import Tensor, nn

import fastode
from fastode.kernels.native import NativeStep
from fastode.kernels.torch_step import TorchStep

pytest.importorskip("fastode._native", reason="the native module is not built")

STEP = 0.125
#: every step is accepted and this long
FIXED = {"first_step": STEP, "min_step": STEP, "max_step": STEP}


class Field(nn.Module):
    """A rotation: one operator, no state kept."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=dtype))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return y @ self.matrix


def operators(end: float, grad: bool = False, y0: Any = None, func: Any = None, **kwargs: Any) -> Operators:
    """What goes through the dispatcher in a solve of ``end / STEP`` steps."""
    y0 = torch.ones(64, 2) if y0 is None else y0
    t = torch.tensor([0.0, end])
    with torch.set_grad_enabled(grad), Operators() as seen:
        fastode.odeint(func or Field(), y0, t, **{"options": FIXED, **kwargs})
    return seen


def per_step(**kwargs: Any) -> dict[str, float]:
    """Operators by name for one step, by the difference of solves of 8 and 24 steps."""
    operators(1.0, **kwargs)
    difference = operators(3.0, **kwargs).more_than(operators(1.0, **kwargs))
    return {name: count / 16 for name, count in difference.items()}


def test_a_dopri5_step_dispatches_hardly_an_operator_beyond_the_fields():
    counts = per_step()
    assert counts.pop("mm") == 6
    # torchdiffeq: 200. Ours: the square root of the error norm, which is torch's own for the sake of its bits
    assert sum(counts.values()) <= 2, counts


def test_a_tuple_state_costs_no_more_operators_than_it_has_parts():
    field = Field()

    def func(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return field(t, state[0]), field(t, state[1])

    counts = per_step(func=func, y0=(torch.ones(64, 2), torch.ones(5, 2)))
    assert counts.pop("mm") == 12
    assert sum(counts.values()) <= 4, counts


def test_a_step_on_a_tape_stays_below_ten_operators_a_stage(monkeypatch):
    monkeypatch.undo()  # the fixture that fills fresh memory with NaN calls operators itself
    counts = per_step(grad=True)
    assert counts.pop("mm") == 6
    assert sum(counts.values()) <= 10 * 6, counts


def test_a_fixed_grid_step_dispatches_hardly_an_operator_beyond_the_fields():
    options = {"method": "rk4", "options": {"step_size": STEP}}
    counts = per_step(**options)
    assert counts.pop("mm") == 4
    # the stage times are views into one buffer for many steps
    assert sum(counts.values()) <= 10, counts


def test_steps_allocate_nothing_once_the_solve_is_under_way():
    counts = per_step()
    assert not [name for name in counts if name in ("empty", "empty_like", "new_empty", "zeros", "zeros_like", "clone")]


def test_a_field_that_keeps_its_state_gets_fresh_memory_instead():
    kept: list[Tensor] = []
    field = Field()

    def func(t: Tensor, y: Tensor) -> Tensor:
        kept.append(y)
        return field(t, y)

    counts = per_step(func=func)
    assert counts["empty_like"] == 6


@pytest.mark.parametrize("rtol", [1e-3, 1e-6], ids=str)
@pytest.mark.parametrize(("method", "stages"), [("dopri5", 6), ("bosh3", 3), ("dopri8", 13), ("tsit5", 6)])
def test_a_solve_evaluates_twice_to_start_and_once_for_each_stage_but_the_reused_one(method, stages, rtol):
    field = Field()
    with fastode.stats() as log, torch.no_grad():
        fastode.odeint(field, torch.ones(3, 2), torch.tensor([0.0, 3.0]), rtol=rtol, atol=rtol, method=method)
    assert field.calls == log[0].n_func == 2 + stages * log[0].n_steps
    assert log[0].n_steps > 1


def test_a_given_first_step_saves_the_second_evaluation_of_the_start():
    field = Field()
    with torch.no_grad():
        fastode.odeint(field, torch.ones(3, 2), torch.tensor([0.0, 1.0]), options=FIXED)
    assert field.calls == 1 + 6 * 8


def test_the_discrete_gradient_evaluates_six_times_a_step_and_once_more():
    field = Field(torch.float64)
    with fastode.stats() as log:
        y = fastode.odeint_adjoint(
            field, torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.0, 1.0]), gradient="discrete", options=FIXED
        )
        y[-1].sum().backward()
    forward, backward = log
    assert forward.n_func == 1 + 6 * 8
    # each step's first slope is the last of the step before it; only the output in the last step asks for its own
    assert backward.n_func <= 6 * 8 + 1
    assert (backward.direction, backward.n_accepted) == ("backward", 8)


def test_a_gradient_at_the_end_of_a_step_asks_for_no_dense_output():
    field = Field(torch.float64)
    with fastode.stats() as log:
        y = fastode.odeint_adjoint(
            field,
            torch.ones(3, 2, dtype=torch.float64),
            torch.tensor([0.0, 1.0], dtype=torch.float64),
            gradient="discrete",
            options=FIXED,
        )
        y[-1].sum().backward()
    assert log[1].n_func == 6 * 8


@pytest.fixture
def interpolations(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The fractions of steps at which dense output was computed."""
    seen: list[float] = []
    for kind in (NativeStep, TorchStep):
        inner = kind.interpolate

        def interpolate(self: Any, x: Any, inner: Callable[..., Any] = inner) -> Any:
            seen.append(float(x))
            return inner(self, x)

        monkeypatch.setattr(kind, "interpolate", interpolate)
    return seen


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "tape"])
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((0.0, 1.0), []),
        ((0.0, 0.25, 0.5, 1.0), []),
        ((0.0, 0.9), [0.2]),
        ((0.0, 0.0625, 0.625, 0.65625), [0.5, 0.25]),
    ],
    ids=["one-step-end", "step-ends", "inside-the-last", "mixed"],
)
def test_only_requested_times_inside_a_step_are_interpolated(times, expected, grad, interpolations):
    t = torch.tensor(times, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        fastode.odeint(Field(torch.float64), torch.ones(3, 2, dtype=torch.float64), t, options=FIXED)
    assert interpolations == pytest.approx(expected)


KEEP: dict[str, Callable[[Tensor], Any]] = {
    "itself": lambda y: y,
    "view": lambda y: y.view(-1),
    "slice": lambda y: y[1:, :1],
    "transpose": lambda y: y.t(),
    "detached": lambda y: y.detach(),
    "numpy": lambda y: torch.from_numpy(y.numpy()) if not y.requires_grad else y.detach(),
    "in-a-dict": lambda y: {"y": y},
    "storage": lambda y: torch.empty(0, dtype=y.dtype).set_(y.untyped_storage(), 0, y.shape),
}


def leaf(kept: Any) -> Tensor:
    return kept["y"] if isinstance(kept, dict) else kept


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP.keys())
def test_a_state_that_the_field_keeps_is_never_written_again(keep):
    kept, copies, field = [], [], Field()

    def func(t: Tensor, y: Tensor) -> Tensor:
        kept.append(keep(y))
        copies.append(leaf(kept[-1]).clone())
        return field(t, y)

    with torch.no_grad():
        fastode.odeint(func, torch.ones(5, 2), torch.tensor([0.0, 2.0]))
    assert len(kept) > 20
    assert all(torch.equal(leaf(a), b) for a, b in zip(kept, copies, strict=True))


def test_times_that_the_field_keeps_are_never_written_again():
    kept, values, field = [], [], Field()

    def func(t: Tensor, y: Tensor) -> Tensor:
        kept.append(t)
        values.append(float(t))
        return field(t, y)

    with torch.no_grad():
        fastode.odeint(func, torch.ones(5, 2), torch.tensor([0.0, 2.0]))
    assert [float(t) for t in kept] == values


def test_a_state_saved_in_a_tape_of_the_field_is_never_written_again():
    weight = torch.tensor(2.0, requires_grad=True)
    values, expected = [], []

    def func(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            values.append((y * weight).sum())
        expected.append(float(y.sum()))
        return -y

    with torch.no_grad():
        fastode.odeint(func, torch.ones(5, 2), torch.tensor([0.0, 2.0]))
    for value, gradient in zip(values, expected, strict=True):
        (found,) = torch.autograd.grad(value, weight)
        assert float(found) == pytest.approx(gradient, rel=1e-6)


def test_a_state_that_requires_grad_in_place_is_neither_written_again_nor_handed_out_again():
    seen: list[tuple[Tensor, Tensor]] = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        assert not y.requires_grad
        with torch.enable_grad():
            y.requires_grad_()
            energy = (y**2).sum() / 2
            (force,) = torch.autograd.grad(energy, y)
        seen.append((y, y.detach().clone()))
        return -force

    with torch.no_grad():
        y = fastode.odeint(func, torch.ones(5, 2), torch.tensor([0.0, 1.0]))
    assert all(torch.equal(a, b) for a, b in seen)
    assert not y.requires_grad
    torch.testing.assert_close(y[-1], torch.full((5, 2), 0.36787944))


def test_a_slope_that_is_the_state_itself_is_read_before_the_state_is_written():
    with torch.no_grad():
        y = fastode.odeint(lambda t, y: y, torch.ones(5), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(y[-1], torch.full((5,), 2.7182818))


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "tape"])
def test_a_field_that_writes_every_slope_into_one_buffer_gives_the_right_answer(grad):
    buffer = torch.empty(5)

    def func(t: Tensor, y: Tensor) -> Tensor:
        buffer.copy_(y.detach())
        return buffer

    with torch.set_grad_enabled(grad):
        y = fastode.odeint(func, torch.ones(5), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(y[-1], torch.full((5,), 2.7182818))


def test_the_solution_shares_no_memory_with_the_initial_state_or_the_solver():
    y0 = torch.ones(5)
    with torch.no_grad():
        first = fastode.odeint(lambda t, y: -y, y0, torch.tensor([0.0, 1.0]))
        copy = first.clone()
        first_again = fastode.odeint(lambda t, y: -2 * y, y0, torch.tensor([0.0, 1.0]))
    assert torch.equal(first, copy)
    first_again.zero_()
    assert torch.equal(y0, torch.ones(5))


def test_a_field_that_writes_into_its_state_in_place_spoils_no_other_stage():
    """Overwriting the argument is the field's own mistake, but an accepted state must survive reading it."""
    states: list[Tensor] = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        states.append(y.clone())
        return y.neg()

    with torch.no_grad():
        fastode.odeint(func, torch.ones(2), torch.tensor([0.0, 1.0]), options=FIXED)
    # the last stage of a step is at its new state, from which the first stage of the next step starts
    assert torch.equal(states[0], torch.ones(2))
