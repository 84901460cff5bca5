"""The continuous adjoint of each row: as exact as the tolerances, and with no more memory than the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastode
from fastode import Event, Status, solve

from .fields import Net, decay, tensor

double = torch.float64
each_engine = pytest.mark.parametrize("engine", ["native", "reference"])


@each_engine
@pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5", "dopri8", "tsit5"])
def test_it_agrees_with_the_gradient_of_the_steps(method: str, engine: str) -> None:
    net = Net()
    y0 = torch.randn(5, 3, dtype=double, requires_grad=True)
    scale = torch.linspace(0.5, 3.0, 5, dtype=double, requires_grad=True)
    span = tensor(0.0, 0.1, 0.0, 0.0, 0.5), tensor(1.0, 1.4, -0.8, 0.02, 0.5)
    shares = tensor(0.0, 0.3, 0.9, 1.0)
    ts = [(a + shares * (b - a)).unique() for a, b in zip(*span, strict=True)]
    ts = [t if b > a else t.flip(0) for t, a, b in zip(ts, *span, strict=True)]
    # the dense output, at which the two differ, is less exact than the steps
    tol, close = (1e-6, 3e-4) if method == "adaptive_heun" else (1e-9, 1e-5)
    inputs = (y0, scale, *net.parameters())
    found = []
    for gradient in ("backsolve", "discrete"):
        s = solve(net, y0, span, ts, args=(scale,), gradient=gradient, method=method, engine=engine, rtol=tol, atol=tol)
        loss = s.ys.nan_to_num().sin().sum() + s.y.square().sum()
        found.append(torch.autograd.grad(loss, inputs))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=close, atol=close)


def test_rows_are_what_they_are_alone() -> None:
    net = Net()
    y0 = torch.randn(6, 3, dtype=double, requires_grad=True)
    scale = torch.linspace(0.5, 6.0, 6, dtype=double, requires_grad=True)
    ts = torch.linspace(0, 1, 4, dtype=double)
    together = solve(net, y0, t_eval=ts, args=(scale,), gradient="backsolve").ys
    of_y0, of_scale = torch.autograd.grad(together.sin().sum(), (y0, scale))
    for i in range(6):
        one = slice(i, i + 1)
        own = solve(net, y0[one], t_eval=ts, args=(scale[one],), gradient="backsolve").ys
        alone = torch.autograd.grad(own.sin().sum(), (y0, scale))
        assert torch.equal(alone[0][i], of_y0[i])
        torch.testing.assert_close(alone[1][i], of_scale[i], rtol=1e-13, atol=1e-13)


def test_jumps_of_the_field_and_steps_of_a_given_size() -> None:
    y0, rate = torch.ones(3, 2, dtype=double, requires_grad=True), tensor(0.5, 1.0, 2.0).requires_grad_()
    jump = tensor(0.3, 0.5, 0.7)

    def field(t: Tensor, y: Tensor, rate: Tensor, jump: Tensor) -> Tensor:
        return decay(t, y, torch.where(t < jump, rate, 3 * rate))

    ts = tensor(0.0, 0.5, 1.0)
    kwargs = {"args": (rate, jump), "jump_t": jump[:, None], "rtol": 1e-9, "atol": 1e-9}
    found = []
    for gradient in ("backsolve", "discrete"):
        s = solve(field, y0, t_eval=ts, gradient=gradient, **kwargs)  # type: ignore[arg-type]
        found.append(torch.autograd.grad(s.ys.sin().sum(), (y0, rate)))
        fixed = solve(decay, y0, t_eval=ts, args=(rate,), method="rk4", first_step=0.02, gradient=gradient)
        found[-1] += torch.autograd.grad(fixed.ys.sin().sum(), (y0, rate))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_structures_and_one_tensor_in_two_places() -> None:
    weight = torch.nn.Parameter(tensor(0.5))
    y0 = {"a": torch.randn(3, 2, dtype=double, requires_grad=True), "b": torch.randn(3, dtype=double)}

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, t: Tensor, y: dict[str, Tensor], again: Tensor) -> dict[str, Tensor]:
            return {"a": -self.weight * y["a"] * y["b"][:, None], "b": torch.sin(y["b"]) * again + t}

    ts = tensor(0.0, 0.5, 1.0)
    found = []
    for gradient in ("backsolve", "discrete", "autograd"):
        s = solve(Field(), y0, t_eval=ts, args=(weight,), gradient=gradient, rtol=1e-9, atol=1e-9)
        loss = s.ys["a"].sin().sum() + s.y["b"].sum()
        found.append(torch.autograd.grad(loss, (weight, y0["a"])))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_events_and_outputs_at_one_time_count_both() -> None:
    y0 = tensor(1.0, 2.0)[:, None].requires_grad_()
    ts = tensor(0.0, 0.5, 1.0)
    events = [Event(lambda t, y: t - 0.5, terminal=False), Event(lambda t, y: y[:, 0] - 0.45, terminal=True)]
    found = []
    for gradient in ("backsolve", "discrete"):
        s = solve(lambda t, y: -y, y0, (0.0, 9.0), ts, event_fn=events, gradient=gradient, rtol=1e-9, atol=1e-9)
        assert (s.status == Status.EVENT).all()
        loss = 3 * s.ys[:, 1].sum() + s.event_y[0].square().sum() + s.t.sum() + s.y.sum()
        found.append(torch.autograd.grad(loss, y0)[0])
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-7)


def test_a_row_that_failed_has_a_gradient_of_its_last_good_state_and_spoils_none() -> None:
    def field(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return torch.where((t[:, None] > 0.5) & (y > 50), torch.nan, -w * y)

    w = torch.tensor(1.0, dtype=double, requires_grad=True)
    y0 = tensor(1.0, 100.0, torch.nan, 2.0)[:, None].requires_grad_()
    s = solve(field, y0, (0.0, 1.0), args=(w,), gradient="backsolve")
    assert s.failed.tolist() == [False, True, True, False]
    good = s.status == Status.FINISHED
    of_y0, of_w = torch.autograd.grad(s.y[good].sum(), (y0, w), retain_graph=True)
    assert of_w.isfinite() and of_y0[good].isfinite().all() and (of_y0[1:3] == 0).all()
    ts = tensor(0.0, 0.25, 0.75)
    s = solve(field, y0, (0.0, 1.0), ts, args=(w,), gradient="backsolve")
    (early,) = torch.autograd.grad(s.ys[1, 1].sum(), y0)
    torch.testing.assert_close(early.squeeze(1), tensor(0.0, 0.7788, 0.0, 0.0), rtol=1e-4, atol=1e-4)


def test_a_failure_on_the_way_back_is_reported() -> None:
    going_back = False

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t[:, None] < 0.5) & going_back, torch.nan, -y)

    y0 = tensor(1.0, 2.0)[:, None].requires_grad_()
    s = solve(field, y0, (0.0, 1.0), gradient="backsolve")
    going_back = True
    with pytest.raises(fastode.SolverError, match=r"going back, 2 of 2 rows failed, the first of them row 0 at t=0\.5"):
        s.y.sum().backward()


def test_what_is_kept_does_not_grow_with_the_steps_and_no_row_carries_parameters() -> None:
    net = Net()
    y0 = torch.randn(8, 3, dtype=double, requires_grad=True)
    scale = torch.full((8,), 2.0, dtype=double)
    s = solve(net, y0, (0.0, 5.0), args=(scale,), gradient="backsolve", rtol=1e-9, atol=1e-9)
    node = s.y.grad_fn
    kept = [x for x in vars(node.solved.outputs).values() if isinstance(x, list)]  # type: ignore[union-attr]
    assert all(len(x) == 0 for x in kept)
    with fastode.stats() as log:
        s.y.sum().backward()
    assert [entry.direction for entry in log] == ["backward"] and log[0].n_accepted > 0
