"""Gradients of spans and times of evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastode
from fastode import Status, solve

from .fields import tensor

double = torch.float64
each_gradient = pytest.mark.parametrize("gradient", ["discrete", "autograd", "backsolve"])


def field(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """``y(t) = y(s) exp(a (sin t - sin s))``."""
    return (a * torch.cos(t))[:, None] * y


def exact(y0: Tensor, a: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return y0[:, None] * torch.exp(a[:, None] * (torch.sin(t) - torch.sin(s)[:, None]))[:, :, None]


@each_gradient
def test_gradients_of_spans_and_of_ragged_times_are_those_of_the_exact_solution(gradient: str) -> None:
    y0 = torch.randn(3, 2, dtype=double, requires_grad=True)
    a = tensor(0.5, 1.0, -1.5).requires_grad_()
    t0, t1 = tensor(0.0, 0.5, 1.0).requires_grad_(), tensor(2.0, 1.5, -1.0).requires_grad_()
    ts = torch.stack([tensor(0.0, 0.7, 2.0), tensor(0.6, 1.2, 1.3), tensor(1.0, 0.1, -0.9)]).requires_grad_()
    tight = {"rtol": 1e-10, "atol": 1e-10}
    s = solve(field, y0, (t0, t1), ts, args=(a,), gradient=gradient, **tight)  # type: ignore[arg-type]
    ys, y = exact(y0, a, t0, ts), exact(y0, a, t0, t1[:, None])[:, 0]
    weight = torch.randn_like(ys), torch.randn_like(y)
    inputs = (y0, a, t0, t1, ts)
    found = torch.autograd.grad((weight[0] * s.ys).sum() + (weight[1] * s.y).sum() + s.t.sum(), inputs)
    expected = torch.autograd.grad((weight[0] * ys).sum() + (weight[1] * y).sum() + t1.sum(), inputs)
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-7, atol=1e-7)


@each_gradient
def test_both_ends_are_outputs_by_default_and_shared_numbers_collect_the_gradients_of_all_rows(gradient: str) -> None:
    y0 = torch.randn(3, 2, dtype=double)
    a = tensor(0.5, 1.0, -1.5)
    t0, t1 = (torch.tensor(t, dtype=double, requires_grad=True) for t in (0.2, 1.7))
    s = solve(field, y0, (t0, t1), args=(a,), gradient=gradient, rtol=1e-10, atol=1e-10)
    assert torch.equal(s.ys[:, 0], y0)
    found = torch.autograd.grad(s.ys.sum(), (t0, t1))
    ts = torch.stack([t0, t1]).expand(3, 2)
    expected = torch.autograd.grad(exact(y0, a, ts[:, 0], ts).sum(), (t0, t1))
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-7, atol=1e-7)


def test_second_derivatives_of_times_with_autograd() -> None:
    y0 = torch.randn(2, 1, dtype=double, requires_grad=True)
    a, t0, t1 = tensor(0.5, 1.0).requires_grad_(), tensor(0.0, 0.5).requires_grad_(), tensor(2.0, 1.5).requires_grad_()
    ts = torch.stack([tensor(0.3, 0.9), tensor(0.6, 1.2)]).requires_grad_()
    inputs = (y0, a, t0, t1, ts)

    def second(ys: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(ys.sin().sum() + y.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum((g * g).sum() for g in first), inputs)

    s = solve(field, y0, (t0, t1), ts, args=(a,), gradient="autograd", rtol=1e-11, atol=1e-11)
    found = second(s.ys, s.y)
    expected = second(exact(y0, a, t0, ts), exact(y0, a, t0, t1[:, None])[:, 0])
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-5)


@each_gradient
def test_a_list_of_times_and_an_event_time_that_moves_with_the_start(gradient: str) -> None:
    y0 = tensor(1.0, 2.0)[:, None]
    t0 = tensor(0.0, 0.5).requires_grad_()
    late = tensor(0.75, 1.0).requires_grad_()
    s = solve(
        lambda t, y: -y, y0, (t0, 9.0), [tensor(0.1), late], event_fn=lambda t, y: y[:, 0] - 0.25, gradient=gradient,
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    assert (s.status == Status.EVENT).all()
    by_start, by_late = torch.autograd.grad(s.t.sum() + s.ys[1].sum(), (t0, late))
    # the event moves with the start; the state at a fixed time is that of a later start
    values = 2 * torch.exp(-(late.detach() - 0.5))
    torch.testing.assert_close(by_start, 1 + tensor(0.0, float(values.sum())), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_late, -values, rtol=1e-6, atol=1e-6)


def test_a_row_that_fails_has_no_gradient_of_its_end_and_spoils_none() -> None:
    def broken(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > 50, torch.nan, -y)

    t1 = tensor(1.0, 1.0).requires_grad_()
    y0 = tensor(1.0, 100.0)[:, None].requires_grad_()
    s = solve(broken, y0, (0.0, t1))
    assert s.status.tolist() == [Status.FINISHED, Status.NON_FINITE]
    of_t, of_y = torch.autograd.grad(s.y.sum() + s.ys[:, 0].sum(), (t1, y0))
    torch.testing.assert_close(of_t, tensor(-float(torch.exp(tensor(-1.0))), 0.0), rtol=1e-4, atol=1e-4)
    assert of_y.isfinite().all()


def test_times_do_not_move_in_a_batch_that_stays_whole() -> None:
    t1 = tensor(1.0, 1.0).requires_grad_()
    with pytest.raises(fastode.UnsupportedInput, match="compact=False"):
        solve(lambda t, y: -y, tensor(1.0, 2.0)[:, None], (0.0, t1), compact=False)
