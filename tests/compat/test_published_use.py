"""How published code calls torchdiffeq, habit by habit: the same happens here."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode

torchdiffeq = pytest.importorskip("torchdiffeq", reason="both are compared")

D = torch.float64
Y = torch.tensor([[0.3, -1.2], [0.1, -0.7], [1.0, 0.5]], dtype=D)
T = torch.tensor([0.0, 0.5, 1.0], dtype=D)
LIBRARIES = (torchdiffeq, fastode)


def wave(t: Tensor, y: Tensor) -> Tensor:
    return torch.sin(3 * t) - y


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
def test_everything_may_be_passed_by_keyword(name: str) -> None:
    more = {"adjoint_params": ()} if name == "odeint_adjoint" else {}
    theirs, ours = (getattr(lib, name)(func=wave, y0=Y, t=T, rtol=1e-6, atol=1e-6, **more) for lib in LIBRARIES)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_jump_t_serves_the_forward_and_the_adjoint_pass() -> None:
    def step(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.3, 1.0, -2.0) * y

    jumps = {"jump_t": torch.tensor([0.3], dtype=D)}
    answers = []
    for lib in LIBRARIES:
        y0 = Y.clone().requires_grad_()
        y = lib.odeint_adjoint(step, y0, T[[0, 2]], options=jumps, adjoint_options=jumps, adjoint_params=())
        answers.append((y.detach(), *torch.autograd.grad(y[-1].sum(), y0)))
    for theirs, ours in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


class DivergenceOf(nn.Module):
    """A flow that makes the state it is handed require grad, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.4, -0.9], [0.3, 0.2]], dtype=D))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z = state[0]
        with torch.enable_grad():
            z.requires_grad_(True)
            dz = torch.tanh(z @ self.w + t)
            trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
        return dz, -trace  # type: ignore[operator]


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("grad", [True, False], ids=["training", "no_grad"])
def test_a_field_may_make_its_state_require_grad_in_place(grad: bool, method: str, name: str, engine: str) -> None:
    answers = []
    for lib in LIBRARIES:
        field = DivergenceOf()
        options = {"options": {"engine": engine}} if lib is fastode else {}
        with torch.set_grad_enabled(grad):
            z, logp = getattr(lib, name)(field, (Y, torch.zeros(3, dtype=D)), T, method=method, **options)
        gradient = torch.autograd.grad((z[-1].square().sum() + logp[-1].sum()), field.w)[0] if grad else torch.zeros(1)
        answers.append((z.detach(), logp.detach(), gradient))
    for theirs, ours, tolerance in zip(*answers, (1e-12, 1e-12, 1e-5), strict=True):  # two adjoints to rtol 1e-7
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


class Noisy(nn.Module):
    """Draws its noise in the first evaluation of a solve, keeps it, counts in an attribute and in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.noise: Tensor | None = None
        self.nfe = 0
        self.register_buffer("count", torch.zeros(()))
        self.times: list[float] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.noise is None:
            self.noise = torch.randn_like(y)
        self.nfe += 1
        self.count += 1
        self.times.append(float(t.detach()))
        return self.noise * torch.cos(t) - y


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_noise_drawn_in_the_first_evaluation_and_counts_are_torchdiffeqs(method: str) -> None:
    fields = []
    for lib in LIBRARIES:
        torch.manual_seed(4)
        fields.append(Noisy())
        y = lib.odeint(fields[-1], Y, T, method=method)
        assert y.shape == (3, 3, 2)
    theirs, ours = fields
    assert torch.equal(ours.noise, theirs.noise)
    assert ours.nfe == theirs.nfe == int(ours.count) == int(theirs.count)
    assert ours.times == pytest.approx(theirs.times, abs=1e-9)


def test_the_time_is_a_tensor_without_dimensions_of_the_states_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        seen: set[Any] = set()

        def field(t: Tensor, y: Tensor, seen: set[Any] = seen) -> Tensor:
            seen.add((type(t), t.shape, t.dtype))
            return -y * float(t)

        fastode.odeint(field, Y.to(dtype), T, rtol=1e-3, atol=1e-3)
        assert seen == {(Tensor, torch.Size([]), dtype)}


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_obsolete_options_are_warned_of_and_ignored(method: str) -> None:
    with pytest.warns(UserWarning, match=r"Unexpected arguments \{'grid_points'.*'eps'"):
        y = fastode.odeint(wave, Y, T, method=method, options={"grid_points": T, "eps": 1e-3})
    assert torch.equal(y, fastode.odeint(wave, Y, T, method=method))


def test_norms_are_not_called_to_see_whether_they_work() -> None:
    def broken(*_: Any) -> Tensor:
        raise AssertionError("called")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastode.odeint(wave, Y, T, method="rk4", options={"norm": broken})
        field = nn.Linear(2, 2).double()
        fastode.odeint_adjoint(lambda t, y: field(y), Y, T, adjoint_params=(), adjoint_options={"norm": broken})


def test_the_norm_of_the_adjoint_gets_what_torchdiffeq_passes() -> None:
    shapes = []
    for lib in LIBRARIES:
        seen: list[Any] = []

        def norm(parts: Any, seen: list[Any] = seen) -> Tensor:
            seen.append([p.shape for p in parts])
            return torch.stack([p.abs().max() for p in parts]).max()

        w = torch.tensor([1.0, 0.5], dtype=D, requires_grad=True)
        y0 = Y.clone().requires_grad_()
        y = lib.odeint_adjoint(
            lambda t, y, w=w: w * wave(t, y), y0, T[[0, 2]], adjoint_params=(w,), adjoint_options={"norm": norm}
        )
        y[-1].sum().backward()
        shapes.append(seen[0])
    assert shapes[0] == shapes[1]
