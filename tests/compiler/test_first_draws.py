"""Fields that draw their noise in the first call of a solve and keep it for the others, as FFJORD's does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode

from .running import assert_close

T = torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


class Flow(nn.Module):
    """Points with their log-density, by Hutchinson's estimate."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 2))
        self.noise: Tensor | None = None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y = state[0]
        self.calls += 1
        if self.noise is None:
            self.noise = torch.randn_like(y)
        with torch.enable_grad():
            y.requires_grad_(True)
            slope = self.net(torch.cat([y, t.expand(len(y), 1)], 1))
            (product,) = torch.autograd.grad(slope, y, self.noise, create_graph=True)
        return slope, -(product * self.noise).sum(1, keepdim=True)


def solved(func: Any, noise_of: Any, y0: Tensor, seed: int, adjoint: bool = False) -> tuple[list[Tensor], str]:
    """The solution and its gradients, from noise drawn anew."""
    noise_of.noise = None
    torch.manual_seed(seed)
    solve = fastode.odeint_adjoint if adjoint else fastode.odeint
    more: dict[str, Any] = {"adjoint_params": tuple(noise_of.parameters())} if adjoint else {}
    y, change = solve(func, (y0, torch.zeros(len(y0), 1)), T, rtol=1e-6, atol=1e-6, **more)
    engine = fastode.last_stats().engine
    grads = torch.autograd.grad((y * torch.cos(y)).sum() + change.sum(), [*noise_of.parameters()])
    return [y, change, *grads, torch.rand(3)], engine


@pytest.mark.parametrize("adjoint", [False, True], ids=["odeint", "odeint_adjoint"])
def test_the_noise_is_that_of_the_uncompiled_solve(adjoint: bool) -> None:
    func = Flow()
    field = fastode.compile(func)
    y0 = torch.randn(20, 2)
    for seed, rows in ((0, 20), (1, 20), (2, 20), (2, 7), (3, 1), (4, 20)):
        expected, _ = solved(func, func, y0[:rows], seed)
        found, engine = solved(field, func, y0[:rows], seed, adjoint)
        assert engine == "compiled"
        assert func.noise is not None and func.noise.shape == (rows, 2)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, 1e-9)


def test_a_solve_that_goes_on_with_the_noise_draws_none() -> None:
    func = Flow()
    field, y0 = fastode.compile(func), (torch.randn(5, 2), torch.zeros(5, 1))
    fastode.odeint(field, y0, T)
    noise, before = func.noise, torch.get_rng_state()
    fastode.odeint(field, y0, T)
    assert func.noise is noise
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_traced_once_and_called_once_a_solve() -> None:
    func = Flow()
    field, y0 = fastode.compile(func), (torch.randn(5, 2), torch.zeros(5, 1))
    fastode.odeint(field, y0, T)
    for _ in range(3):
        func.noise, calls = None, int(func.calls)
        fastode.odeint(field, y0, T)
        assert fastode.last_stats().engine == "compiled"
        assert int(func.calls) == calls + 1


def test_noise_of_another_batch_is_the_fields_own_error() -> None:
    func = Flow()
    field = fastode.compile(func)
    fastode.odeint(field, (torch.randn(5, 2), torch.zeros(5, 1)), T)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        fastode.odeint(field, (torch.randn(6, 2), torch.zeros(6, 1)), T)
    func.noise = None
    fastode.odeint(field, (torch.randn(6, 2), torch.zeros(6, 1)), T)
    assert fastode.last_stats().engine == "compiled"


DRAWING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "noise": lambda t, y: -y + 0.01 * torch.randn_like(y),
    "dropout": lambda t, y: nn.functional.dropout(-y, 0.5),
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_field_that_draws_in_every_call_is_refused_and_its_numbers_are_the_same(name: str) -> None:
    func, y0 = DRAWING[name], torch.randn(5, 2)
    field, steps = fastode.compile(func), {"method": "rk4", "options": {"step_size": 0.2}}
    for seed in range(3):
        torch.manual_seed(seed)
        expected = fastode.odeint(func, y0, T, **steps)
        torch.manual_seed(seed)
        assert torch.equal(fastode.odeint(field, y0, T, **steps), expected)
        assert "draws random numbers" in fastode.last_stats().reason
