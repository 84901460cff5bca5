"""Solutions as functions of time, each row over its own span."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastode
from fastode import Status, solve

from .fields import Net, decay, tensor, van_der_pol

double = torch.float64
each_engine = pytest.mark.parametrize("engine", ["native", "reference"])


@each_engine
@pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5", "dopri8", "tsit5"])
def test_the_function_has_the_values_that_were_asked_for_beforehand(method: str, engine: str) -> None:
    y0 = torch.tensor([[2.0, 0.0]], dtype=double).repeat(5, 1)
    mu = torch.linspace(0.1, 6.0, 5, dtype=double)
    t0, t_end = tensor(0.0, 1.0, 0.0, 0.0, 2.0), tensor(3.0, 2.0, -0.5, 0.0, 8.0)
    ts = [
        torch.linspace(float(a), float(b), n, dtype=double) for a, b, n in zip(t0, t_end, (7, 3, 4, 1, 9), strict=True)
    ]
    found = solve(van_der_pol, y0, (t0, t_end), ts, args=(mu,), dense=True, method=method, engine=engine)
    values = found.sol(found.ts)
    assert values.shape == (5, 9, 2)
    torch.testing.assert_close(values, found.ys, rtol=1e-12, atol=1e-12, equal_nan=True)
    mixed = found.ts[:, torch.randperm(9)]
    assert torch.equal(found.sol(mixed).isnan(), mixed.isnan()[:, :, None].expand(5, 9, 2))
    torch.testing.assert_close(found.sol(t_end[:, None])[:, 0], found.y, rtol=1e-12, atol=1e-12)


def test_numbers_shared_times_and_structures() -> None:
    rate = tensor(0.5, 1.0, 2.0)
    y0 = {"a": torch.ones(3, 2, dtype=double), "b": torch.ones(3, dtype=double)}

    def field(t: Tensor, y: dict[str, Tensor], rate: Tensor) -> dict[str, Tensor]:
        return {"a": decay(t, y["a"], rate), "b": decay(t, y["b"], rate)}

    found = solve(field, y0, (0.0, 2.0), args=(rate,), dense=True, rtol=1e-9, atol=1e-9)
    one = found.sol(0.7)
    assert one["a"].shape == (3, 2) and one["b"].shape == (3,)
    torch.testing.assert_close(one["b"], torch.exp(-0.7 * rate), rtol=1e-7, atol=1e-7)
    shared = found.sol(torch.linspace(0, 2, 11))
    assert shared["a"].shape == (3, 11, 2) and shared["b"].shape == (3, 11)
    assert torch.equal(shared["b"][:, 0], y0["b"])
    assert found.sol(torch.empty(0))["b"].shape == (3, 0)


def test_float32_complex_and_no_rows() -> None:
    for dtype in (torch.float32, torch.complex128):
        found = solve(lambda t, y: -y, torch.ones(2, 3, dtype=dtype), (0.0, 1.0), dense=True, rtol=1e-6, atol=1e-8)
        assert found.sol(0.5).dtype == dtype
        torch.testing.assert_close(
            found.sol(0.5), torch.full((2, 3), math.exp(-0.5), dtype=dtype), rtol=1e-5, atol=1e-5
        )
    none = solve(lambda t, y: -y, torch.ones(0, 3), (0.0, 1.0), dense=True)
    assert none.sol(tensor(0.0, 0.5)).shape == (0, 2, 3)


def test_times_outside_a_span_are_refused_and_those_not_reached_are_nan() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t[:, None] > 0.5) & (y > 50), torch.nan, -y)

    y0 = tensor(1.0, 100.0, torch.nan)[:, None]
    found = solve(field, y0, (0.0, 1.0), dense=True)
    assert found.status.tolist() == [Status.FINISHED, Status.NON_FINITE, Status.NON_FINITE]
    values = found.sol(tensor(0.0, 0.25, 0.75)).squeeze(2)
    assert values.isnan().tolist() == [[False] * 3, [False, False, True], [True] * 3]
    for bad in (1.5, -0.1, tensor(0.5, 1.01)):
        with pytest.raises(
            fastode.InvalidArgument, match="t must lie within t_span, but row 0 goes from 0 to 1 and has"
        ):
            found.sol(bad)
    with pytest.raises(fastode.InvalidArgument, match=r"t must be a number, \[T\] or \[3, T\], but has shape \(2, 2\)"):
        found.sol(torch.zeros(2, 2))
    still = solve(field, y0[:1], (tensor(1.0), tensor(1.0)), dense=True)
    assert torch.equal(still.sol(1.0), y0[:1])
    with pytest.raises(fastode.InvalidArgument, match="row 0 goes from 1 to 1 and has t=2"):
        still.sol(2.0)
    with pytest.raises(fastode.InvalidArgument, match=r"use solve\(\.\.\., dense=True\)"):
        solve(field, y0, (0.0, 1.0)).sol(0.5)
    with pytest.raises(fastode.InvalidArgument, match="method='euler' has no dense output"):
        solve(field, y0, (0.0, 1.0), dense=True, method="euler", first_step=0.1)


@pytest.mark.parametrize("gradient", ["discrete", "autograd"])
def test_its_gradients_are_those_of_the_values_asked_for_beforehand(gradient: str) -> None:
    net = Net()
    y0 = torch.randn(3, 3, dtype=double, requires_grad=True)
    scale = tensor(0.5, 1.0, 3.0).requires_grad_()
    inputs = (y0, scale, *net.parameters())
    ts = torch.stack([tensor(0.1, 0.4, 1.0), tensor(0.0, 0.5, 0.7), tensor(0.2, 0.21, 0.22)])
    s = solve(net, y0, (0.0, 1.0), ts, args=(scale,), dense=True, gradient=gradient)
    found = torch.autograd.grad(s.sol(ts).sin().sum() + s.y.sum(), inputs, retain_graph=True)
    expected = torch.autograd.grad(s.ys.sin().sum() + s.y.sum(), inputs, retain_graph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    t = tensor(0.3, 0.6).requires_grad_()
    (rate,) = torch.autograd.grad(s.sol(t)[1, :, 0].sum(), t, retain_graph=True)
    with torch.no_grad():
        slope = net(t, s.sol(t)[1], scale[[1, 1]])[:, 0]
    torch.testing.assert_close(rate, slope, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        assert not solve(net, y0, (0.0, 1.0), args=(scale,), dense=True).sol(0.5).requires_grad


def test_rows_are_the_same_in_any_batch() -> None:
    y0 = torch.tensor([[2.0, 0.0]], dtype=double).repeat(6, 1)
    mu = torch.linspace(0.1, 9.0, 6, dtype=double)
    t = torch.rand(6, 20, dtype=double) * 4
    together = solve(van_der_pol, y0, (0.0, 4.0), args=(mu,), dense=True).sol(t)
    for i in range(6):
        one = slice(i, i + 1)
        assert torch.equal(
            solve(van_der_pol, y0[one], (0.0, 4.0), args=(mu[one],), dense=True).sol(t[one])[0], together[i]
        )
