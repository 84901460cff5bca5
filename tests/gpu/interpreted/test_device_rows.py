"""``solve`` on the device beside the loop of the host: every row the same steps, values, status and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastode
from fastode import solve


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    return torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)


ROWS = 17
MU = torch.linspace(0.5, 3, ROWS, dtype=torch.float64)
Y0 = torch.stack([torch.linspace(-2, 2, ROWS), torch.linspace(1, -1, ROWS)], 1).double()
TIMES = torch.linspace(0, 0.9, 4, dtype=torch.float64)


def both(func: Any = van_der_pol, y0: Any = Y0, **settings: Any) -> tuple[fastode.Solution, fastode.Solution]:
    settings = {"t_eval": TIMES, "args": (MU,), **settings}
    found = solve(func, y0, engine="triton", **settings)
    account = fastode.last_stats()
    assert account is not None and account.engine == "triton" and account.reason == ""
    return found, solve(func, y0, engine="native", **settings)


def assert_same(found: fastode.Solution, expected: fastode.Solution, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.ys, expected.ys, rtol=tolerance, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(found.y, expected.y, rtol=tolerance, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(found.t, expected.t, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.status, expected.status)
    for name in ("n_func", "n_accepted", "n_rejected"):
        assert torch.equal(getattr(found.stats, name), getattr(expected.stats, name)), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"controller": "PI"},
        {"controller": "PID"},
        {"method": "bosh3", "rtol": 1e-3},
        {"method": "adaptive_heun", "rtol": 1e-2, "atol": 1e-2},
        {"method": "rk4", "first_step": 0.05},
        {"first_step": torch.linspace(0.01, 0.1, ROWS)},
        {"max_steps": 5},
        {"compact": False},
        {"step_t": torch.tensor([0.3, 0.7])},
        {"rtol": torch.logspace(-6, -3, ROWS)[:, None].double()},
        {"min_step": 0.02, "max_step": 0.1},
        {"t_eval": None, "t_span": (torch.zeros(ROWS).double(), torch.linspace(-0.5, 0.5, ROWS).double())},
        {"t_eval": [torch.linspace(0, 0.5 + i / 30, 1 + i % 4 + 1).double() for i in range(ROWS)]},
    ],
    ids=lambda s: "-".join(s) or "dopri5",
)
def test_rows_take_the_steps_of_the_host(settings: dict[str, Any]) -> None:
    assert_same(*both(**settings))


def test_parts_and_features_of_any_shape() -> None:
    state = {"a": torch.randn(5, 3, 2).double(), "b": torch.randn(5).double()}

    def field(t: Tensor, s: Any) -> Any:
        return {"a": -s["a"] * t[:, None, None], "b": torch.cos(s["b"] * t)}

    found, expected = both(field, state, args=())
    for name in state:
        torch.testing.assert_close(found.ys[name], expected.ys[name], rtol=1e-9, atol=1e-9)
    assert torch.equal(found.stats.n_accepted, expected.stats.n_accepted)


def test_one_row_and_none() -> None:
    assert_same(*both(y0=Y0[:1], args=(MU[:1],)))
    found, _ = both(y0=Y0[:0], args=(MU[:0],))
    assert found.ys.shape == (0, 4, 2)


def test_a_row_does_not_depend_on_its_batch() -> None:
    together = solve(van_der_pol, Y0, t_eval=TIMES, args=(MU,), engine="triton")
    for i in (0, 16):
        alone = solve(van_der_pol, Y0[[i, 3]], t_eval=TIMES, args=(MU[[i, 3]],), engine="triton")
        assert torch.equal(alone.ys[0], together.ys[i]) and alone.stats.n_accepted[0] == together.stats.n_accepted[i]


def test_a_row_that_fails_stops_alone() -> None:
    def field(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        return torch.where((mu > 2.5) & (t > 0.5), torch.nan, 1.0)[:, None] * van_der_pol(t, y, mu)

    found, expected = both(field, min_step=1e-3)
    assert int((found.status == 3).sum()) == int((MU > 2.5).sum())
    good = MU <= 2.5
    torch.testing.assert_close(found.ys[good], expected.ys[good], rtol=1e-9, atol=1e-9)
    assert torch.equal(found.status, expected.status)


@pytest.mark.parametrize("gradient", ["discrete", "autograd", "backsolve"])
def test_gradients_are_those_of_the_host(gradient: str) -> None:
    found = []
    for engine in ("triton", "native"):
        mu, y0 = MU.clone().requires_grad_(), Y0.clone().requires_grad_()
        settings = {"rtol": 1e-6, "atol": 1e-6} if gradient == "backsolve" else {}
        solution = solve(van_der_pol, y0, t_eval=TIMES, args=(mu,), engine=engine, gradient=gradient, **settings)
        solution.ys[:, 1:].square().sum().backward()
        found.append((y0.grad, mu.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("why", "settings"),
    [
        ("events and dense solutions", {"dense": True}),
        ("events and dense solutions", {"event_fn": lambda t, y, mu: y[:, 0]}),
        ("jump_t", {"jump_t": torch.tensor([0.5])}),
    ],
)
def test_what_cannot_stay_on_the_device_is_refused_by_name(why: str, settings: dict[str, Any]) -> None:
    with pytest.raises(fastode.InvalidArgument, match=f"engine='triton' cannot serve this solve: {why}"):
        solve(van_der_pol, Y0, t_eval=TIMES, args=(MU,), engine="triton", **settings)
