"""Every sample its own solve: the same alone, in any batch and in any order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastode
from fastode import Event, Solution, Status, solve

from .fields import decay, van_der_pol

ENGINES = ("native", "reference")
METHODS = ("adaptive_heun", "fehlberg2", "bosh3", "dopri5", "dopri8", "tsit5")
each_engine = pytest.mark.parametrize("engine", ENGINES)
each_method = pytest.mark.parametrize("method", METHODS)
double = torch.float64


def oscillators(n: int, largest: float = 8.0) -> tuple[Tensor, Tensor]:
    return torch.tensor([[2.0, 0.0]], dtype=double).repeat(n, 1), torch.linspace(0.1, largest, n, dtype=double)


def equal_rows(found: Solution, i: int, alone: Solution, j: int = 0) -> None:
    assert torch.equal(found.ys[i].nan_to_num(9.0), alone.ys[j].nan_to_num(9.0))
    assert torch.equal(found.y[i], alone.y[j])
    for name in ("status", "t"):
        assert torch.equal(getattr(found, name)[i], getattr(alone, name)[j])
    for name in ("n_func", "n_accepted", "n_rejected", "dt"):
        assert torch.equal(getattr(found.stats, name)[i], getattr(alone.stats, name)[j])


@each_engine
@each_method
def test_a_row_is_what_it_is_alone(method: str, engine: str) -> None:
    y0, mu = oscillators(7)
    span = (torch.zeros(7, dtype=double), torch.tensor([3.0, 2.5, 2.0, -0.5, 3.0, 0.0, 1.0], dtype=double))
    ts = span[1][:, None] * torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=double)
    ts = [t.unique() if end >= 0 else t for t, end in zip(ts, span[1], strict=True)]
    kwargs: dict[str, Any] = {"method": method, "engine": engine, "rtol": 1e-4, "atol": 1e-5}
    together = solve(van_der_pol, y0, span, ts, args=(mu,), **kwargs)
    assert (together.status == Status.FINISHED).all()
    assert torch.equal(together.t, span[1])
    for i in range(7):
        one = slice(i, i + 1)
        alone = solve(van_der_pol, y0[one], (span[0][one], span[1][one]), ts[i : i + 1], args=(mu[one],), **kwargs)
        assert alone.stats.n_calls == int(alone.stats.n_func)
        n = len(ts[i])
        assert together.ys[i, n:].isnan().all()
        assert torch.equal(together.ys[i, :n], alone.ys[0])
        for name in ("n_func", "n_accepted", "n_rejected", "dt"):
            assert torch.equal(getattr(together.stats, name)[i], getattr(alone.stats, name)[0])


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(9)), compact=st.booleans(), threads=st.sampled_from([1, 2]))
def test_the_order_of_the_rows_does_not_matter(order: list[int], compact: bool, threads: int) -> None:
    y0, mu = oscillators(9)
    expected = solve(van_der_pol, y0, (0.0, 2.0), args=(mu,))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if compact:
            found = solve(van_der_pol, y0[order], (0.0, 2.0), args=(mu[order],))
        else:
            closed = mu[order]
            found = solve(lambda t, y: van_der_pol(t, y, closed), y0[order], (0.0, 2.0), compact=False)
    finally:
        torch.set_num_threads(before)
    for j, i in enumerate(order):
        equal_rows(found, j, expected, i)


@pytest.mark.parametrize(
    ("dtype", "engine"),
    [(torch.float32, "native"), (double, "native"), (torch.float32, "reference"), (torch.complex128, "reference")],
)
def test_the_solution_is_right_in_every_row(engine: str, dtype: torch.dtype) -> None:
    rate = torch.logspace(-1, 2, 13, dtype=double)
    y0 = torch.randn(13, 5, 3, dtype=dtype)
    t0, t1 = torch.linspace(-1, 1, 13, dtype=double), torch.linspace(2, 1.5, 13, dtype=double)

    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        assert t.shape == y.shape[:1] == rate.shape
        return decay(t, y, rate.to(y.real.dtype))

    found = solve(field, y0, (t0, t1), args=(rate,), engine=engine, rtol=1e-6, atol=1e-8).raise_for_status()
    expected = y0 * torch.exp(-rate * (t1 - t0))[:, None, None].to(y0.real.dtype)
    torch.testing.assert_close(found.ys[:, 1], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.ys[:, 0], y0)
    assert torch.equal(found.ys[:, 1], found.y)
    assert found.ts.dtype == double


@each_engine
def test_engines_take_the_same_steps(engine: str) -> None:
    y0, mu = oscillators(11)
    found = solve(van_der_pol, y0, (0.0, 2.0), args=(mu,), engine=engine)
    expected = solve(van_der_pol, y0, (0.0, 2.0), args=(mu,), engine="reference")
    assert torch.equal(found.stats.n_accepted, expected.stats.n_accepted)
    torch.testing.assert_close(found.ys, expected.ys, rtol=1e-10, atol=1e-10)


def test_rows_that_have_finished_are_not_evaluated() -> None:
    y0, mu = oscillators(64, 20.0)
    sizes: list[int] = []

    def field(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        sizes.append(len(y))
        return van_der_pol(t, y, mu)

    spans = (0.0, torch.linspace(0.05, 5.0, 64, dtype=double))
    found = solve(field, y0, spans, args=(mu,))
    assert len(sizes) == found.stats.n_calls
    needed, evaluated = int(found.stats.n_func.sum()), sum(sizes)
    assert needed <= evaluated <= needed / 0.75
    assert sizes == sorted(sizes, reverse=True)
    sizes.clear()
    solve(lambda t, y: field(t, y, mu), y0, spans, compact=False)
    assert set(sizes) == {64}


def test_an_argument_for_all_rows_stays_whole_when_as_many_rows_are_left() -> None:
    """Its first axis is as long as the batch becomes, which does not make it one with an entry for each row."""

    def field(t: Tensor, y: Tensor, weight: Tensor, rate: Tensor) -> Tensor:
        return torch.tanh(y @ weight) * rate

    y0 = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    weight = torch.tensor([[0.3, -0.8], [0.9, 0.2]], dtype=torch.float64)
    rate = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)[:, None]
    ends = torch.tensor([0.1, 0.2, 0.3, 3.0, 0.1, 4.0, 5.0], dtype=torch.float64)
    for gradient in ("discrete", "autograd", "backsolve"):
        w = weight.clone().requires_grad_()
        s = solve(field, y0, (0.0, ends), args=(w, rate), gradient=gradient, rtol=1e-9, atol=1e-9)
        alone = [
            solve(field, y0[i : i + 1], (0.0, ends[i].item()), args=(weight, rate[i : i + 1]), rtol=1e-9, atol=1e-9).y
            for i in range(7)
        ]
        torch.testing.assert_close(s.y, torch.cat(alone), rtol=1e-10, atol=1e-12)
        (found,) = torch.autograd.grad(s.y.sum(), w)
        whole = weight.clone().requires_grad_()
        kept = solve(
            field, y0, (0.0, ends), args=(whole, rate), gradient="autograd", compact=False, rtol=1e-9, atol=1e-9
        )
        (expected,) = torch.autograd.grad(kept.y.sum(), whole)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@each_engine
def test_a_row_that_fails_stops_alone_with_its_last_good_state(engine: str) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t[:, None] > 0.5) & (y > 50), torch.nan, -y)

    y0 = torch.tensor([[1.0], [100.0], [2.0], [torch.nan]], dtype=double)
    ts = torch.linspace(0, 1, 5, dtype=double)
    found = solve(field, y0, (0.0, 1.0), ts, engine=engine)
    assert found.status.tolist() == [Status.FINISHED, Status.NON_FINITE, Status.FINISHED, Status.NON_FINITE]
    good = solve(field, y0[[0, 2]], (0.0, 1.0), ts, engine=engine)
    equal_rows(found, 0, good, 0)
    equal_rows(found, 2, good, 1)
    assert 0 < float(found.t[1]) < 0.5 + 1e-9
    assert found.y[1].isfinite().all()
    reached = ts <= found.t[1]
    assert found.ys[1, reached].isfinite().all() and found.ys[1, ~reached].isnan().all()
    assert found.failed.tolist() == [False, True, False, True]
    with pytest.raises(fastode.NonFiniteState, match=r"2 of 4 rows failed, the first of them row 1 at t=0\.\d+ after"):
        found.raise_for_status()


def test_a_blow_up_and_a_limit_have_their_own_status() -> None:
    def field(t: Tensor, y: Tensor, power: Tensor) -> Tensor:
        return y ** power[:, None]

    y0 = torch.ones(2, 1, dtype=double)
    found = solve(field, y0, (0.0, 2.0), args=(torch.tensor([2.0, 1.0], dtype=double),))
    assert found.status.tolist()[1] == Status.FINISHED
    assert found.failed.tolist() == [True, False]
    assert abs(float(found.t[0]) - 1.0) < 1e-3
    limited = solve(field, y0, (0.0, 0.9), args=(torch.tensor([2.0, 1.0], dtype=double),), max_steps=8)
    assert limited.status.tolist() == [Status.TOO_MANY_STEPS, Status.FINISHED]
    with pytest.raises(fastode.TooManySteps, match=r"row 0 .* after 8 steps: the limit on the number of steps"):
        limited.raise_for_status()


@pytest.mark.parametrize("controller", ["I", "PI", "PID", (0.6, -0.2, 0.0)], ids=str)
def test_every_controller_keeps_the_error(controller: Any) -> None:
    y0, mu = oscillators(5)
    exact = solve(van_der_pol, y0, (0.0, 3.0), args=(mu,), rtol=1e-11, atol=1e-11)
    found = solve(van_der_pol, y0, (0.0, 3.0), args=(mu,), rtol=1e-6, atol=1e-6, controller=controller)
    torch.testing.assert_close(found.y, exact.y, rtol=0, atol=2e-4)


def test_tolerances_may_differ_by_row_and_by_feature() -> None:
    y0, mu = oscillators(4)
    loose, tight = 1e-3, 1e-9
    rtol = torch.tensor([[loose], [tight], [loose], [tight]], dtype=double)
    found = solve(van_der_pol, y0, (0.0, 2.0), args=(mu,), rtol=rtol, atol=1e-9)
    for i, tol in enumerate((loose, tight, loose, tight)):
        alone = solve(van_der_pol, y0[i : i + 1], (0.0, 2.0), args=(mu[i : i + 1],), rtol=tol, atol=1e-9)
        assert found.stats.n_accepted[i] == alone.stats.n_accepted[0]
        torch.testing.assert_close(found.y[i], alone.y[0], rtol=1e-12, atol=1e-12)
    features = solve(van_der_pol, y0, (0.0, 2.0), args=(mu,), atol=torch.tensor([1e-9, 1e-2], dtype=double))
    assert (features.stats.n_accepted != found.stats.n_accepted).any()


def test_a_state_of_parts_is_solved_like_one_of_their_sum() -> None:
    rate = torch.tensor([0.5, 1.0, 2.0], dtype=double)
    y0 = {"a": torch.ones(3, 2, dtype=double), "b": (torch.full((3,), 2.0, dtype=double),)}

    def field(t: Tensor, y: Any, rate: Tensor) -> Any:
        return {"a": -rate[:, None] * y["a"], "b": (-y["b"][0],)}

    found = solve(field, y0, (0.0, 1.0), args=(rate,), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.ys["a"][:, 1], torch.exp(-rate)[:, None].expand(3, 2), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.y["b"][0], 2 * torch.exp(-torch.ones(3, dtype=double)), rtol=1e-7, atol=1e-8)


@each_engine
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_part_of_one_number_a_row(method: str, engine: str) -> None:
    y0 = torch.linspace(0.1, 1.0, 5, dtype=double)
    first_step = 0.1 if method == "rk4" else None
    both = solve(
        lambda t, s: (-s[0], -2 * s[1]), (y0, y0[:, None].expand(5, 2)), (0.0, 1.0), method=method, engine=engine,
        first_step=first_step, rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    assert both.y[0].shape == (5,) and both.y[1].shape == (5, 2)
    torch.testing.assert_close(both.y[0], y0 * torch.tensor(-1.0, dtype=double).exp(), rtol=1e-6, atol=0)
    torch.testing.assert_close(both.y[1][:, 1], y0 * torch.tensor(-2.0, dtype=double).exp(), rtol=1e-4, atol=0)


def test_first_steps_and_limits_of_each_row() -> None:
    y0, mu = oscillators(3)
    first = torch.tensor([0.01, 0.02, 0.04], dtype=double)
    found = solve(van_der_pol, y0, (0.0, 1.0), args=(mu,), first_step=first, max_step=0.125)
    assert (found.stats.n_accepted >= 8).all()
    assert (found.stats.n_func == 1 + 6 * found.stats.n_steps).all()
    forced = solve(van_der_pol, y0[:2], (0.0, 1.0), args=(mu[:2],), min_step=0.25, first_step=0.25, max_step=0.25)
    assert (forced.stats.n_rejected == 0).all() and (forced.stats.n_accepted <= 4).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_rows_and_no_features(engine: str) -> None:
    none = solve(lambda t, y: y, torch.empty(0, 3, dtype=double), (0.0, 1.0), engine=engine)
    assert none.ys.shape == (0, 2, 3) and none.raise_for_status() is none
    flat = solve(lambda t, y: y, torch.empty(2, 0, dtype=double), (0.0, 1.0), engine=engine)
    assert flat.ys.shape == (2, 2, 0) and (flat.status == Status.FINISHED).all()
    one = solve(lambda t, y: y, torch.ones(1, dtype=double), (0.0, 1.0), engine=engine)
    torch.testing.assert_close(one.y, torch.ones(1, dtype=double).exp(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 3), (1, 0), (3, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("gradient", ["discrete", "autograd", "backsolve"])
@pytest.mark.parametrize("engine", ENGINES)
def test_no_rows_and_no_features_with_everything_switched_on(
    shape: tuple[int, int], gradient: str, engine: str
) -> None:
    y0 = torch.ones(shape, dtype=double, requires_grad=True)
    w = torch.tensor(1.0, dtype=double, requires_grad=True)
    t1 = torch.full(shape[:1], 2.0, dtype=double, requires_grad=True)
    events = [Event(lambda t, y, w: y.sum(-1) - 0.5, terminal=False), Event(lambda t, y, w: t - 1.9)]
    found = solve(
        lambda t, y, w: -w * y, y0, (0.0, t1), torch.linspace(0, 2, 5, dtype=double), args=(w,), gradient=gradient,
        dense=gradient != "backsolve", event_fn=events, jump_t=torch.tensor([0.5]), engine=engine,
    )  # fmt: skip
    assert found.event_t[1].shape == (shape[0], min(shape[0], 1))
    values = [found.ys.nan_to_num(), found.y, found.t, *[v.nan_to_num() for v in found.event_t + found.event_y]]
    if gradient != "backsolve":
        values.append(found.sol(0.7))
    gradients = torch.autograd.grad(sum(v.sum() for v in values), (y0, w, t1))
    for g, x in zip(gradients, (y0, w, t1), strict=True):
        assert g.shape == x.shape and g.isfinite().all()


def test_a_field_that_writes_into_one_buffer_and_a_state_that_is_not_contiguous() -> None:
    buffer = torch.empty(5, 3, dtype=double)
    y0 = torch.randn(3, 5, dtype=double).T
    found = solve(lambda t, y: torch.cos(y, out=buffer), y0, (0.0, 1.0), compact=False)
    expected = solve(lambda t, y: torch.cos(y), y0.contiguous(), (0.0, 1.0))
    assert torch.equal(found.y, expected.y)


def test_statuses_are_those_of_the_native_code() -> None:
    native = pytest.importorskip("fastode._native", reason="the native module is not built")
    assert native.status_messages() == {int(s): (s.name, s.message) for s in Status}
