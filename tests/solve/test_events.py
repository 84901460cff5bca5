"""Events of each row: where they are, what they stop, and how they are differentiated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fastode
from fastode import Event, Status, solve
from fastode.rows.events import root

from .fields import tensor, van_der_pol

double = torch.float64
each_engine = pytest.mark.parametrize("engine", ["native", "reference"])
each_gradient = pytest.mark.parametrize("gradient", ["discrete", "autograd", "backsolve"])


def falling(t: Tensor, y: Tensor) -> Tensor:
    """Height and speed under gravity."""
    return torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.81)], dim=1)


def oscillation(t: Tensor, y: Tensor) -> Tensor:
    """``y = (cos t, -sin t)`` from (1, 0)."""
    return torch.stack([y[:, 1], -y[:, 0]], dim=1)


def height(t: Tensor, y: Tensor) -> Tensor:
    return y[:, 0]


def landing(y0: Tensor) -> Tensor:
    h, v = y0.unbind(1)
    return (v + (v * v + 2 * 9.81 * h).sqrt()) / 9.81


@each_engine
@pytest.mark.parametrize(("dtype", "accuracy"), [(double, 1e-12), (torch.float32, 2e-5)])
def test_each_row_stops_at_its_own_event(dtype: torch.dtype, accuracy: float, engine: str) -> None:
    y0 = torch.tensor([[1.0, 0.0], [2.0, 1.0], [5.0, -1.0], [100.0, 0.0]], dtype=dtype)
    ts = torch.linspace(0, 3, 7, dtype=double)
    found = solve(falling, y0, (0.0, 3.0), ts, event_fn=height, engine=engine).raise_for_status()
    assert found.status.tolist() == [Status.EVENT] * 3 + [Status.FINISHED]
    assert found.failed.tolist() == [False] * 4
    exact = landing(y0.double())
    torch.testing.assert_close(found.t[:3], exact[:3], rtol=0, atol=accuracy)
    torch.testing.assert_close(found.event_t[0].squeeze(1)[:3], found.t[:3], rtol=0, atol=0)
    assert found.event_t[0][3].isnan().all() and found.event_y[0][3].isnan().all()
    assert torch.equal(found.event_y[0][:3, 0], found.y[:3])
    assert (found.y[:3, 0].abs() < 20 * accuracy).all()
    reached = ts[None] <= found.t[:, None]
    assert torch.equal(found.ys.isnan().any(dim=2), ~reached)


@each_engine
@pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5", "dopri8", "tsit5"])
def test_events_of_a_row_are_what_they_are_alone(method: str, engine: str) -> None:
    y0 = torch.tensor([[2.0, 0.0]], dtype=double).repeat(9, 1)
    mu = torch.linspace(0.1, 5.0, 9, dtype=double)
    level = torch.linspace(-1.5, 1.5, 9, dtype=double)
    events = [
        Event(lambda t, y, mu, level: y[:, 0] - level, terminal=False),
        Event(lambda t, y, mu, level: y[:, 1] + t - 4, terminal=True, direction=1),
    ]
    kwargs: dict[str, Any] = {"method": method, "engine": engine, "rtol": 1e-4, "atol": 1e-5, "event_fn": events}

    def field(t: Tensor, y: Tensor, mu: Tensor, level: Tensor) -> Tensor:
        return van_der_pol(t, y, mu)

    span = (0.0, torch.linspace(3.0, 8.0, 9, dtype=double))
    together = solve(field, y0, span, args=(mu, level), **kwargs)
    order = torch.tensor([3, 1, 8, 0, 2, 7, 5, 4, 6])
    mixed = solve(field, y0, (0.0, span[1][order]), args=(mu[order], level[order]), **kwargs)
    assert len(together.status.unique()) == 2
    for i in range(9):
        one = slice(i, i + 1)
        alone = solve(field, y0[one], (0.0, span[1][one]), args=(mu[one], level[one]), **kwargs)
        for other, j in ((alone, 0), (mixed, int((order == i).nonzero()))):
            assert torch.equal(together.y[i], other.y[j]) and together.t[i] == other.t[j]
            assert together.status[i] == other.status[j]
            assert together.stats.n_func[i] == other.stats.n_func[j]
            for a, b in zip(together.event_t, other.event_t, strict=True):
                assert a[i][~a[i].isnan()].tolist() == b[j][~b[j].isnan()].tolist()


@each_engine
def test_several_functions_directions_and_what_comes_after_a_terminal_event(engine: str) -> None:
    y0 = tensor(1.0, 0.0).repeat(2, 1)
    events = [
        Event(height, terminal=False),
        Event(height, terminal=False, direction=1),
        Event(height, terminal=False, direction=-1),
        Event(lambda t, y: t.abs() - 10.5, terminal=True),
        Event(lambda t, y: t.abs() - 10.500001, terminal=False),
    ]
    tight = {"rtol": 1e-10, "atol": 1e-10}
    found = solve(oscillation, y0, (0.0, tensor(20.0, -20.0)), event_fn=events, engine=engine, **tight)  # type: ignore[arg-type]
    assert found.t.tolist() == pytest.approx([10.5, -10.5]) and (found.status == Status.EVENT).all()
    either, rising, dropping, end, after = (t / math.pi for t in found.event_t)
    assert either[0].tolist() == pytest.approx([0.5, 1.5, 2.5], abs=1e-8)
    assert either[1].tolist() == pytest.approx([-0.5, -1.5, -2.5], abs=1e-8)
    # along the integration, in either direction of time
    assert rising.tolist() == [pytest.approx([1.5], abs=1e-8), pytest.approx([-1.5], abs=1e-8)]
    assert dropping.tolist() == [pytest.approx([0.5, 2.5], abs=1e-8), pytest.approx([-0.5, -2.5], abs=1e-8)]
    assert end.shape == (2, 1) and after.shape == (2, 0)
    torch.testing.assert_close(found.event_y[0][0, :, 1], tensor(-1.0, 1.0, -1.0), rtol=0, atol=1e-8)


@each_engine
def test_an_event_at_the_start_stops_there_or_is_skipped(engine: str) -> None:
    y0 = torch.tensor([[0.0, 2.0], [1.0, 0.0]], dtype=double)
    ts = tensor(0.0, 0.1)
    at_once = solve(falling, y0, (0.0, 1.0), ts, event_fn=height, engine=engine)
    assert at_once.status.tolist() == [Status.EVENT] * 2
    assert at_once.t.tolist() == [0.0, pytest.approx(float(landing(y0)[1]))]
    assert torch.equal(at_once.y[0], y0[0]) and torch.equal(at_once.ys[0, 0], y0[0])
    assert at_once.ys[0, 1].isnan().all() and at_once.event_t[0][0].tolist() == [0.0]
    skipped = solve(falling, y0, (0.0, 1.0), event_fn=Event(height, skip_start=True), engine=engine)
    torch.testing.assert_close(skipped.t, landing(y0))


@pytest.mark.parametrize("noise", [0.0, 1e-13, -1e-13])
def test_a_ball_bounces_on(noise: float) -> None:
    y, t = tensor(1.0, 0.0, 0.5, 0.0).view(2, 2), tensor(0.0, 0.0)
    event = Event(height, skip_start=True, direction=-1)
    for bounce in range(4):
        s = solve(falling, y, (t, 100.0), event_fn=event, rtol=1e-9, atol=1e-9).raise_for_status()
        first = (2 * tensor(1.0, 0.5) / 9.81).sqrt()
        torch.testing.assert_close(s.t, first * (1 + 2 * 0.8 * (1 - 0.8**bounce) / 0.2), rtol=1e-9, atol=1e-9)
        y = torch.stack([s.y[:, 0] * 0 + noise, -0.8 * s.y[:, 1]], dim=1)
        t = s.t


@each_engine
def test_an_event_function_that_is_nan_stops_its_row_alone(engine: str) -> None:
    def event(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t + y[:, 1] > 1.0, torch.nan, y[:, 0] + 100)

    y0 = tensor(1.0, -50.0, 1.0, 0.0).view(2, 2)
    found = solve(oscillation, y0, (0.0, 3.0), event_fn=event, engine=engine)
    assert found.status.tolist() == [Status.NON_FINITE] * 2
    y0 = tensor(0.01, -0.01, 1.0, 0.0).view(2, 2)
    short = solve(oscillation, y0, (0.0, 0.5), event_fn=event, engine=engine)
    assert (short.status == Status.FINISHED).all()
    with pytest.raises(fastode.NonFiniteState, match="event function is not finite"):
        found.raise_for_status()


def test_rows_that_have_stopped_at_an_event_are_not_evaluated() -> None:
    sizes: list[int] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(y))
        return falling(t, y)

    y0 = torch.stack([torch.logspace(-2, 2, 64, dtype=double), torch.zeros(64, dtype=double)], dim=1)
    found = solve(field, y0, (0.0, 100.0), event_fn=height, max_step=0.05)
    assert (found.status == Status.EVENT).all()
    assert sum(sizes) <= int(found.stats.n_func.sum()) / 0.75
    assert sizes[-1] < 16


class Floor(nn.Module):
    """An event function with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(tensor(0.3).squeeze())
        self.slope = nn.Parameter(tensor(0.1).squeeze())

    def forward(self, t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return y[:, 0] ** 2 - self.level - self.slope * t * scale


class Pull(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor(-1.0, 0.2))

    def forward(self, t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return torch.stack([y[:, 1], self.weight[0] * scale * y[:, 0] ** 3 + self.weight[1] * y[:, 1] * t], dim=1)


@each_gradient
def test_gradients_of_events_are_those_of_the_exact_ones(gradient: str) -> None:
    y0 = torch.tensor([[1.0, 0.0], [2.0, 1.0], [5.0, -1.0], [100.0, 0.0]], dtype=double, requires_grad=True)
    ground = torch.tensor(0.25, dtype=double, requires_grad=True)
    found = solve(falling, y0, (0.0, 3.0), event_fn=lambda t, y: y[:, 0] - ground, gradient=gradient)
    exact = landing(torch.stack([y0[:, 0] - ground, y0[:, 1]], dim=1))
    speed = y0[:, 1] - 9.81 * exact
    for loss, expected in ((found.t[:3], exact[:3]), (found.y[:3, 1], speed[:3]), (found.event_y[0][:3, 0, 0], ground)):
        a = torch.autograd.grad(loss.sum(), (y0, ground), retain_graph=True)
        b = torch.autograd.grad(expected.expand(3).sum(), (y0, ground), retain_graph=True, allow_unused=True)
        for found_grad, exact_grad in zip(a, b, strict=True):
            wanted = torch.zeros_like(found_grad) if exact_grad is None else exact_grad
            torch.testing.assert_close(found_grad, wanted, rtol=1e-9, atol=1e-9)
    everything = torch.autograd.grad((found.t + found.y.sum(1)).sum(), y0)[0]
    assert everything.isfinite().all()


@each_gradient
def test_gradcheck_of_events_in_state_parameters_and_the_event_function(gradient: str) -> None:
    field, floor = Pull(), Floor()
    y0 = torch.tensor([[1.0, 0.1], [1.5, 0.3]], dtype=double, requires_grad=True)
    scale = tensor(1.0, 1.5).requires_grad_()
    events = [Event(floor, terminal=False), Event(lambda t, y, scale: y[:, 0] - 0.1 * t, terminal=True)]

    def outcome(y0: Tensor, scale: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        # steps small enough for an event located on the dense output to be the exact one
        s = solve(
            field, y0, (0.0, 4.0), args=(scale,), event_fn=events, gradient=gradient, method="dopri8",
            first_step=0.1, max_step=0.1, min_step=0.1,
        )  # fmt: skip
        assert (s.status == Status.EVENT).all() and s.event_t[0].shape == (2, 1)
        return s.event_t[0], s.event_y[0], s.t, s.y

    inputs = (y0, scale, *field.parameters(), *floor.parameters())
    assert torch.autograd.gradcheck(outcome, inputs, atol=1e-5)
    if gradient == "autograd":
        small = lambda *inputs: tuple([v[:1] for v in outcome(*inputs)])  # noqa: E731
        assert torch.autograd.gradgradcheck(small, inputs, atol=1e-4)


def test_parameters_of_the_event_function_alone_have_a_gradient() -> None:
    floor = Floor()
    found = solve(
        lambda t, y, s: -y * s[:, None], tensor(1.0, 2.0)[:, None], (0.0, 9.0), args=(tensor(1.0, 2.0),), event_fn=floor
    )
    found.t.sum().backward()
    assert floor.level.grad is not None and float(floor.level.grad) < 0
    with torch.no_grad():
        again = solve(
            lambda t, y, s: -y * s[:, None], tensor(1.0)[:, None], (0.0, 9.0), args=(tensor(1.0),), event_fn=floor
        )
    assert not again.t.requires_grad


def test_a_failed_row_does_not_spoil_the_gradients_of_events() -> None:
    y0 = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [2.0, 0.0]], dtype=double, requires_grad=True)
    found = solve(falling, y0, (0.0, 3.0), event_fn=height)
    assert found.status.tolist() == [Status.EVENT, Status.NON_FINITE, Status.EVENT]
    (g,) = torch.autograd.grad(found.t[[0, 2]].sum() + found.y[[0, 2]].sum(), y0)
    assert g.isfinite().all()


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (3, fastode.UnsupportedInput, r"event_fn\[0\] must be a fastode.Event or callable"),
        (Event(height, direction=2), fastode.InvalidArgument, r"event_fn\[0\].direction must be -1, 0 or 1, but is 2"),
        (lambda t, y: y, fastode.FieldError, r"event_fn\[0\]\(t, y\) has shape \(2, 2\), but must have one number"),
        ([height, lambda t, y: 1.0], fastode.FieldError, r"event_fn\[1\]\(t, y\) returned a float"),
    ],
)
def test_a_wrong_event_is_named(event: Any, error: type[Exception], message: str) -> None:
    y0 = torch.ones(2, 2, dtype=double)
    with pytest.raises(error, match=message):
        solve(falling, y0, (0.0, 1.0), event_fn=event)


def test_what_events_cannot_do_is_said() -> None:
    y0 = torch.ones(2, 2, dtype=double)
    with pytest.raises(fastode.InvalidArgument, match="method='rk4' has no dense output"):
        solve(falling, y0, (0.0, 1.0), event_fn=height, method="rk4", first_step=0.1)
    with pytest.raises(fastode.UnsupportedInput, match="compact=False"):
        solve(falling, y0.requires_grad_(), (0.0, 1.0), event_fn=height, compact=False)


@settings(max_examples=60, deadline=None)
@given(
    places=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6),
    power=st.sampled_from([1, 3, 9]),
    scale=st.sampled_from([-1e6, -1.0, 1e-6, 1.0]),
)
def test_roots_are_found_within_the_tolerance_and_no_slower_than_by_bisection(
    places: list[float], power: int, scale: float
) -> None:
    at = torch.tensor(places, dtype=double)
    calls = 0

    def value(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return scale * (x - at) ** power

    zero, one = torch.zeros_like(at), torch.ones_like(at)
    ends = scale * (zero - at) ** power, scale * (one - at) ** power
    tolerance = 1e-12
    found = root(value, zero, *ends, tolerance)
    assert ((found >= at) & (found - at <= 1.01 * tolerance)).all()
    assert calls <= math.ceil(math.log2(1 / tolerance)) + 2
    if power == 1:
        assert calls <= 12
    for i in range(len(at)):
        own = at[i : i + 1]
        ends_i = [v[i : i + 1] for v in ends]
        alone = root(lambda x, own=own: scale * (x - own) ** power, zero[:1], *ends_i, tolerance)  # type: ignore[misc]
        assert torch.equal(alone[0], found[i])
