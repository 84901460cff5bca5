"""Events against torchdiffeq: times, states, evaluations on the way there, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
import torch
from problems import ADAPTIVE, FIXED, Recorder
from torch import Tensor, nn

import fastode

from .both import assert_close, assert_same_times, parts, reference, reference_adjoint, reference_event

ADJOINT = (fastode.odeint_adjoint, reference_adjoint)
DIRECT = (fastode.odeint, reference)


class Swing(nn.Module):
    """A damped pendulum, driven."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, t: Tensor, y: Any) -> Any:
        angle, speed = (y[0], y[1]) if isinstance(y, tuple) else (y[..., 0], y[..., 1])
        slopes = (speed, -self.rate * torch.sin(angle) - 0.1 * speed + 0.2 * torch.cos(t))
        return slopes if isinstance(y, tuple) else torch.stack(slopes, -1)


def first(y: Any) -> Tensor:
    return y[0] if isinstance(y, tuple) else y[..., 0]


EVENTS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "of the state": lambda t, y: first(y) + 0.2,
    "of the time": lambda t, y: torch.sin(t) + 0.1 * first(y) - 0.8 * torch.sign(t),
    "two components": lambda t, y: torch.stack([first(y).sum() + 0.2, 0.7 - first(y).sum()]),
}
STATES: dict[str, Any] = {
    "vector": torch.tensor([0.6, 0.3], dtype=torch.float64),
    "tuple": (torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)),
}


def arguments(method: str) -> dict[str, Any]:
    if method in ADAPTIVE:
        return {"method": method, "rtol": 1e-6, "atol": 1e-8}
    options: dict[str, Any] = {"step_size": 0.05}
    if method.endswith("adams"):
        options["max_order"] = 4
    return {"method": method, "rtol": 1e-5, "atol": 1e-7, "options": options}


def times(direction: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([0.1, 1.0] if direction == "forward" else [0.1, -1.0], dtype=dtype)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED, "explicit_adams"])
def test_the_same_evaluations_lead_to_the_same_event(method: str, direction: str, event: str, state: str) -> None:
    one, two = Recorder(Swing()), Recorder(Swing())
    with torch.no_grad():
        ours = fastode.odeint(one, STATES[state], times(direction), event_fn=EVENTS[event], **arguments(method))
        theirs = reference(two, STATES[state], times(direction), event_fn=EVENTS[event], **arguments(method))
    assert_same_times(one.times, two.times)
    assert_close(ours[0].reshape(()), theirs[0].reshape(()), scale=1e3)
    assert ours[0].dtype == theirs[0].dtype
    # one halving more or less of a bracket would move the time by the tolerance
    assert_close(ours[1], theirs[1], scale=1e3)


@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("method", FIXED)
def test_interpolation_between_grid_points_finds_the_same_root(method: str, interp: str) -> None:
    kwargs = {"method": method, "atol": 1e-9, "options": {"step_size": 0.05, "interp": interp}}
    with torch.no_grad():
        answers = [s(Swing(), STATES["vector"], times("forward"), event_fn=EVENTS["of the state"], **kwargs)
                   for s in DIRECT]  # fmt: skip
    for ours, theirs in zip(*answers, strict=True):
        assert_close(ours.reshape(theirs.shape), theirs, scale=1e2)


@pytest.mark.parametrize("t_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_dtypes_of_state_and_time_come_back_alike(method: str, dtype: torch.dtype, t_dtype: torch.dtype) -> None:
    kwargs = {**arguments(method), "rtol": 1e-4, "atol": 1e-4}
    y0 = STATES["vector"].to(dtype)
    with torch.no_grad():
        answers = [s(Swing().to(dtype), y0, times("forward", t_dtype), event_fn=EVENTS["of the state"], **kwargs)
                   for s in DIRECT]  # fmt: skip
    (t_ours, ours), (t_theirs, theirs) = answers
    assert (t_ours.dtype, ours.dtype, ours.shape) == (t_theirs.dtype, theirs.dtype, theirs.shape)
    torch.testing.assert_close(t_ours.reshape(()), t_theirs.reshape(()), rtol=0, atol=2e-4)


def test_the_event_function_sees_the_same_times_and_structure() -> None:
    seen: list[list[tuple[float, type]]] = []
    for solve in DIRECT:
        calls: list[tuple[float, type]] = []
        seen.append(calls)

        def event(t: Tensor, y: Any, calls: list[tuple[float, type]] = calls) -> Tensor:
            calls.append((round(float(t), 6), type(y)))
            return y[0] + 0.2

        with torch.no_grad():
            solve(Swing(), STATES["tuple"], times("forward"), event_fn=event, **arguments("dopri5"))
    ours, theirs = seen
    assert 20 < len(ours) <= len(theirs)
    # torchdiffeq asks again at the start and after a rejected step
    assert [call for call, _ in groupby(ours)] == [call for call, _ in groupby(theirs)]


def event_gradients(solvers: tuple[Any, Any], y0: Any, reverse: bool, **kwargs: Any) -> list[list[Tensor]]:
    found = []
    for find, solve in zip((fastode.odeint_event, reference_event), solvers, strict=True):
        func = Swing()
        leaves = [p.clone().requires_grad_() for p in parts(y0)]
        start = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        event_t, y = find(func, tuple(leaves) if isinstance(y0, tuple) else leaves[0], start,
                          event_fn=EVENTS["of the state"], reverse_time=reverse, odeint_interface=solve,
                          **kwargs)  # fmt: skip
        loss = event_t.sum() ** 2 + sum((i + 1) * (p[-1] ** 2).sum() for i, p in enumerate(parts(y)))
        found.append(list(torch.autograd.grad(loss, [*leaves, func.rate, start])))
    return found


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("solvers", [DIRECT, ADJOINT], ids=["autograd", "adjoint"])
def test_gradients_of_the_event_are_equal(solvers: tuple[Any, Any], reverse: bool, state: str) -> None:
    # a given first step, because torchdiffeq would differentiate the choice of one
    options = {"first_step": 0.02}
    ours, theirs = event_gradients(solvers, STATES[state], reverse, rtol=1e-9, atol=1e-9, options=options)
    # the event is located to 1e-9, at which the gradient is evaluated
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("method", ["rk4", "midpoint"])
@pytest.mark.parametrize("solvers", [DIRECT, ADJOINT], ids=["autograd", "adjoint"])
def test_gradients_of_an_event_on_a_grid_are_equal(solvers: tuple[Any, Any], method: str) -> None:
    kwargs = {"method": method, "atol": 1e-9, "options": {"step_size": 0.05, "interp": "cubic"}}
    ours, theirs = event_gradients(solvers, STATES["vector"], False, **kwargs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
