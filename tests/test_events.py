"""Events: where they are found, gradients of their time and state, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import ADAPTIVE_ALL, FIXED
from torch import Tensor, nn
from torch.autograd import gradcheck

import fastode
from fastode.errors import InvalidArgument, TooManySteps

START = torch.tensor([0.0, 1.0], dtype=torch.float64)
TIGHT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
GRID_METHODS = (*FIXED, "explicit_adams", "implicit_midpoint", "gl4")
WAYS = {"autograd": fastode.odeint, "backsolve": fastode.odeint_adjoint}


class Fall(nn.Module):
    """Height and speed under gravity."""

    def __init__(self, gravity: float = 9.8) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(gravity, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -self.gravity.expand(())])


def ground(t: Tensor, y: Tensor) -> Tensor:
    return y[0]


def thrown(height: float = 10.0, speed: float = 2.0) -> Tensor:
    return torch.tensor([height, speed], dtype=torch.float64)


def landing(height: Tensor | float, speed: Tensor | float, gravity: Tensor | float) -> Tensor:
    """The positive root of ``height + speed t - gravity t^2 / 2``."""
    h, v, g = (torch.as_tensor(x, dtype=torch.float64) for x in (height, speed, gravity))
    return (v + torch.sqrt(v * v + 2 * g * h)) / g


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ADAPTIVE_ALL)
def test_an_adaptive_method_finds_the_landing_by_bisection_to_the_tolerance(method: str, way: str) -> None:
    # bosh3 takes the midpoint of its dense output from one slope, wrong by g dt^2 / 8
    options = {"max_step": 1e-3} if method == "bosh3" else {}
    event_t, y = WAYS[way](Fall(), thrown(), START, event_fn=ground, method=method, rtol=1e-6, atol=1e-6,
                           options=options)  # fmt: skip
    assert event_t.shape == () and event_t.dtype == torch.float64
    assert y.shape == (2, 2) and torch.equal(y[0], thrown())
    expected = landing(10, 2, 9.8)
    # half of the last bracket, and what the steps' errors add up to
    torch.testing.assert_close(event_t.detach(), expected, rtol=0, atol=2e-6)
    final = torch.stack([0 * expected, 2 - 9.8 * expected])
    torch.testing.assert_close(y[1].detach(), final, rtol=0, atol=2e-6 * 14)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("method", GRID_METHODS)
def test_a_grid_method_finds_the_landing_between_its_points(method: str, interp: str, way: str) -> None:
    options = {"step_size": 0.01, "interp": interp}
    event_t, y = WAYS[way](Fall(), thrown(), START, event_fn=ground, method=method, options=options)
    # Euler's own error is of the size of a step; a chord of a parabola lies within g h^2 / 8 of it
    bound = 0.02 if method == "euler" else 9.8 * 0.01**2 / 8 / 14 if interp == "linear" else 1e-8
    assert abs(event_t.item() - float(landing(10, 2, 9.8))) < bound
    assert y.shape == (2, 2)
    assert abs(float(y[1, 0].detach())) < 1e-6


@pytest.mark.parametrize(
    "settings",
    [TIGHT, {"method": "gl4", "options": {"step_size": 0.25, "interp": "cubic"}}],
    ids=["dopri5", "gl4"],
)
def test_a_decreasing_second_time_searches_backwards(settings: dict[str, Any]) -> None:
    # thrown from the ground in the past: the negative root
    event_t, _ = fastode.odeint(Fall(), thrown(), START * -1, event_fn=ground, **settings)
    expected = (2 - math.sqrt(4 + 2 * 9.8 * 10)) / 9.8
    assert event_t.item() == pytest.approx(expected, abs=1e-8)
    with torch.no_grad():
        backwards, _ = fastode.odeint_event(Fall(), thrown(), START[0], event_fn=ground, reverse_time=True, **settings)
    # with or without a tape, bisection halves equally often
    assert backwards.item() == pytest.approx(event_t.item(), abs=1e-11)


@pytest.mark.parametrize("end", [1e-6, 1.0, 1e6])
def test_the_second_time_gives_only_the_direction(end: float) -> None:
    t = torch.tensor([0.0, end], dtype=torch.float64)
    event_t, _ = fastode.odeint(Fall(), thrown(), t, event_fn=ground, **TIGHT)
    assert event_t.item() == pytest.approx(float(landing(10, 2, 9.8)), abs=1e-9)


@pytest.mark.parametrize("settings", [{}, {"method": "rk4", "options": {"step_size": 0.1}}], ids=["dopri5", "rk4"])
@pytest.mark.parametrize("way", WAYS)
def test_an_event_at_the_start_ends_the_solve_there(settings: dict[str, Any], way: str) -> None:
    with fastode.stats() as log:
        event_t, y = WAYS[way](Fall(), thrown(0.0), START, event_fn=ground, **settings)
    assert event_t.item() == 0.0 and log[0].n_steps == 0
    assert torch.equal(y, torch.stack([thrown(0.0)] * 2))


def test_the_first_root_of_any_component_is_the_event() -> None:
    def either(t: Tensor, y: Tensor) -> Tensor:
        # of different initial signs
        return torch.stack([y[0], -3 - y[1], t - 5])

    event_t, y = fastode.odeint(Fall(), thrown(), START, event_fn=either, **TIGHT)
    assert event_t.item() == pytest.approx(5 / 9.8, abs=1e-9)
    assert y[1, 1].item() == pytest.approx(-3, abs=1e-8)


def test_the_first_sample_of_a_batch_to_have_its_event_ends_the_solve() -> None:
    y0 = torch.tensor([[10.0, 0.0], [4.0, 0.0]], dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.8)], 1)

    event_t, y = fastode.odeint(field, y0, START, event_fn=lambda t, y: y[:, 0], **TIGHT)
    assert event_t.item() == pytest.approx(float(landing(4, 0, 9.8)), abs=1e-9)
    assert y[1, 0, 0].item() == pytest.approx(6.0, abs=1e-8)


def test_an_event_of_a_structured_state_sees_its_structure() -> None:
    y0 = {"height": thrown()[0], "rest": (thrown()[1:],)}

    def field(t: Tensor, s: dict[str, Any]) -> dict[str, Any]:
        return {"height": s["rest"][0][0], "rest": (torch.full_like(s["rest"][0], -9.8),)}

    for solve in (fastode.odeint, fastode.odeint_adjoint):
        kwargs = {} if solve is fastode.odeint else {"adjoint_params": ()}
        event_t, y = solve(field, y0, START, event_fn=lambda t, s: s["height"], **TIGHT, **kwargs)  # type: ignore[operator]
        assert event_t.item() == pytest.approx(float(landing(10, 2, 9.8)), abs=1e-9)
        assert y["height"].shape == (2,) and y["rest"][0].shape == (2, 1)
        event_t, _ = fastode.odeint_event(
            field, y0, START[0], event_fn=lambda t, s: s["height"], odeint_interface=solve, **TIGHT, **kwargs
        )
        assert event_t.item() == pytest.approx(float(landing(10, 2, 9.8)), abs=1e-9)


@pytest.mark.parametrize("atol", [(1e-6, 1e-11), torch.tensor([1e-6, 1e-11])], ids=["tuple", "tensor"])
def test_the_smallest_of_many_tolerances_ends_the_bisection(atol: Any) -> None:
    calls: list[float] = []

    def event(t: Tensor, y: Any) -> Tensor:
        calls.append(float(t))
        return y[0] - 0.5

    y0 = torch.ones(2, dtype=torch.float64)
    state = tuple(y0.unbind()) if isinstance(atol, tuple) else y0

    def field(t: Tensor, y: Any) -> Any:
        return tuple(-p for p in y) if isinstance(y, tuple) else -y

    event_t, _ = fastode.odeint(field, state, START, event_fn=event, rtol=1e-10, atol=atol)
    assert event_t.item() == pytest.approx(math.log(2), abs=1e-9)
    # the last two midpoints lie two tolerances apart at most
    assert abs(calls[-1] - calls[-2]) <= 2e-11


@pytest.mark.parametrize("atol", [1e-3, 1e-6])
def test_bisection_halves_as_often_as_the_tolerance_asks(atol: float) -> None:
    calls: list[float] = []

    def event(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return y[0] - 0.9

    options = {"first_step": 0.5, "min_step": 0.5, "max_step": 0.5}
    fastode.odeint(lambda t, y: -y, torch.ones(1, dtype=torch.float64), START, event_fn=event, atol=atol,
                   options=options)  # fmt: skip
    assert len(calls) == 2 + math.ceil(math.log2(0.5 / atol))


# gradients


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_the_gradient_of_the_time_and_the_state_is_the_analytic_one(way: str, reverse: bool) -> None:
    sign = -1.0 if reverse else 1.0
    y0, func = thrown(10.0, sign * 2.0).requires_grad_(), Fall()
    start = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    event_t, y = fastode.odeint_event(
        func, y0, start, event_fn=ground, reverse_time=reverse, odeint_interface=WAYS[way], **TIGHT
    )
    h, v = y0.detach().clone().requires_grad_().unbind()
    leaf = torch.stack([h, v])
    g = func.gravity.detach().clone().requires_grad_()
    t0 = start.detach().clone().requires_grad_()
    duration = sign * landing(leaf[0], sign * leaf[1], g)
    for ours, exact in ((event_t, t0 + duration), (y[1, 1], leaf[1] - g * duration)):
        found = torch.autograd.grad(ours, (y0, func.gravity, start), retain_graph=True)
        expected = torch.autograd.grad(exact, (leaf, g, t0), retain_graph=True, materialize_grads=True)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_reaches_parameters_of_the_event_function(way: str) -> None:
    level = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    event_t, y = fastode.odeint_event(
        Fall(), thrown(), START[0], event_fn=lambda t, y: y[0] - level, odeint_interface=WAYS[way], **TIGHT
    )
    exact = level.detach().clone().requires_grad_()
    expected_t = landing(10 - exact, 2, 9.8)
    for ours, wanted in ((event_t, expected_t), (y[1, 0], exact), (y[1, 1], 2 - 9.8 * expected_t)):
        (found,) = torch.autograd.grad(ours, level, retain_graph=True)
        (expected,) = torch.autograd.grad(wanted, exact, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def solve_pendulum(way: str, y0: Tensor, start: Tensor, rate: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """A nonlinear field and an event that depends on time, state and a parameter."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -rate * torch.sin(y[0]) + 0.1 * t])

    kwargs = {} if way == "autograd" else {"adjoint_params": (rate,)}
    event_t, y = fastode.odeint_event(
        field, y0, start, event_fn=lambda t, y: y[0] - level * torch.cos(t), odeint_interface=WAYS[way],
        rtol=1e-12, atol=1e-12, **kwargs,
    )  # fmt: skip
    return event_t, y[-1]


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_a_nonlinear_event_are_those_of_finite_differences(way: str) -> None:
    inputs = (
        torch.tensor([1.2, 0.0], dtype=torch.float64, requires_grad=True),
        torch.tensor(0.1, dtype=torch.float64, requires_grad=True),
        torch.tensor(1.7, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.4, dtype=torch.float64, requires_grad=True),
    )
    # the bisection's resolution of 1e-12 over the finite difference of 1e-5
    assert gradcheck(lambda *x: solve_pendulum(way, *x), inputs, eps=1e-5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("method", ["rk4", "midpoint", "explicit_adams", "gl4"])
def test_the_state_at_an_event_on_a_grid_depends_on_the_start_time(method: str, interp: str) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(3 * t) * y

    def state(start: Tensor) -> Tensor:
        t = torch.stack([start, start.detach() + 1])
        options = {"step_size": 0.3, "interp": interp}
        # an event of the time alone, which stays where it is
        return fastode.odeint(field, torch.ones(2, dtype=torch.float64), t, event_fn=lambda t, y: t - 1.0,
                              method=method, atol=1e-15, options=options)[1][-1]  # fmt: skip

    assert gradcheck(state, torch.tensor(0.05, dtype=torch.float64, requires_grad=True))


def test_extra_arguments_reach_the_field_and_get_their_gradient() -> None:
    def field(t: Tensor, y: Tensor, gravity: Tensor) -> Tensor:
        return torch.stack([y[1], -gravity])

    found = []
    for solve, kwargs in ((fastode.odeint, {}), (fastode.odeint_adjoint, {"adjoint_params": ()})):
        g = torch.tensor(9.8, dtype=torch.float64, requires_grad=True)
        event_t, _ = fastode.odeint_event(
            field, thrown(), START[0], g, event_fn=ground, odeint_interface=solve, **TIGHT, **kwargs
        )
        found.append(torch.autograd.grad(event_t, g)[0])
    exact = torch.tensor(9.8, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(landing(10, 2, exact), exact)
    for g in found:
        torch.testing.assert_close(g, expected, rtol=1e-8, atol=1e-8)


def test_a_chain_of_events_is_differentiable_through_all_of_them() -> None:
    """A ball that bounces: the second landing depends on the first."""

    def second_landing(y0: Tensor, loss: Tensor) -> Tensor:
        first, y = fastode.odeint_event(Fall(), y0, START[0], event_fn=ground, **TIGHT)
        up = torch.stack([y[-1, 0] + 1e-9, -loss * y[-1, 1]])  # lifted off the ground, which is a root
        again, _ = fastode.odeint_event(Fall(), up, first, event_fn=ground, **TIGHT)
        return again

    y0 = thrown().requires_grad_()
    loss = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(second_landing(y0, loss), (y0, loss))
    h, v = y0.detach().clone().requires_grad_(), loss.detach().clone().requires_grad_()
    first = landing(h[0], h[1], 9.8)
    exact = first + 2 * v * (9.8 * first - h[1]) / 9.8
    for a, b in zip(found, torch.autograd.grad(exact, (h, v)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_without_gradients_the_values_are_the_same_and_carry_none() -> None:
    with torch.no_grad():
        event_t, y = fastode.odeint_event(Fall(), thrown(), START[0], event_fn=ground, **TIGHT)
    traced, z = fastode.odeint_event(Fall(), thrown(), START[0], event_fn=ground, **TIGHT)
    assert not event_t.requires_grad and not y.requires_grad
    assert traced.requires_grad and z.requires_grad
    torch.testing.assert_close(event_t, traced.detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("start", [0.0, torch.tensor([0.0], dtype=torch.float64)], ids=["number", "of one element"])
def test_the_start_may_be_a_number_or_of_one_element(start: Any) -> None:
    event_t, _ = fastode.odeint_event(Fall(), thrown(), start, event_fn=ground, **TIGHT)
    assert event_t.shape == () and event_t.item() == pytest.approx(float(landing(10, 2, 9.8)), abs=1e-9)


# refusals


def test_a_grid_without_an_event_gives_up_after_twenty_thousand_steps() -> None:
    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(y)

    with pytest.raises(TooManySteps, match="Reached maximum number of iterations 20000") as caught:
        fastode.odeint(field, thrown(), START, event_fn=ground, method="euler", options={"step_size": 0.5})
    assert isinstance(caught.value, RuntimeError)
    assert calls == 20000
    assert "No event before t=10000" in str(caught.value)


@pytest.mark.parametrize("options", [None, {"grid_constructor": lambda f, y, t: t}], ids=["none", "constructor"])
def test_a_grid_method_needs_a_step_size(options: Any) -> None:
    with pytest.raises(InvalidArgument, match="currently requires `step_size` to be provided in options"):
        fastode.odeint(Fall(), thrown(), START, event_fn=ground, method="rk4", options=options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 3])
def test_events_need_two_times(count: int, way: str) -> None:
    t = torch.arange(count, dtype=torch.float64)
    with pytest.raises(InvalidArgument, match=f"when in event handling mode, but got len\\(t\\)={count}"):
        WAYS[way](Fall(), thrown(), t, event_fn=ground)


def test_an_external_method_cannot_locate_events() -> None:
    with pytest.raises(InvalidArgument, match="cannot locate events"):
        fastode.odeint(Fall(), thrown(), START, event_fn=ground, method="scipy_solver")


def test_the_discrete_gradient_says_what_handles_events() -> None:
    with pytest.raises(InvalidArgument, match="use gradient='backsolve', or odeint"):
        fastode.odeint_adjoint(Fall(), thrown(), START, event_fn=ground, gradient="discrete")
