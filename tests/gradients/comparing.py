"""Fields with every kind of input, and gradients of solves as lists that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from problems import ADAPTIVE_ALL
from torch import Tensor, nn

import fastode
from fastode.tree import flatten, unflatten

STEP = 0.25
#: every step is accepted and this long, so that values perturbed by finite differences take the same steps
STEADY = {"first_step": STEP, "min_step": STEP, "max_step": STEP}
#: no difference of two times is a multiple of the step
T = (0.1, 0.43, 0.97)


def steady(method: str) -> dict[str, Any]:
    """Arguments for a solve whose steps do not depend on values."""
    if method in ADAPTIVE_ALL:
        return {"method": method, "options": STEADY}
    if method in ("implicit_adams", "fixed_adams"):
        # iterated to rounding, or finite differences would see where the corrector stops
        return {"method": method, "rtol": 1e-14, "atol": 1e-14, "options": {"step_size": STEP, "max_iters": 60}}
    return {"method": method, "options": {"step_size": STEP}}


def mixing(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Nonlinear in the state, the time and the extra argument."""
    return torch.tanh(y * w + t) - 0.3 * y.flip(-1)


class Mixing(nn.Module):
    """The same with the argument as a parameter."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(0.4, 1.1, n, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return mixing(t, y, self.w)


class Turning(nn.Module):
    """A complex rotation with a real parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return 1j * self.speed * y * torch.cos(t) - 0.1 * y.abs() * y


def weighted(solution: Any) -> Tensor:
    """A number that depends on every element of a solution, on each in another way."""
    total = torch.zeros((), dtype=torch.float64)
    for i, p in enumerate(flatten(solution)[0]):
        weights = torch.cos(torch.arange(p.numel(), dtype=torch.float64) + i).reshape(p.shape)
        moduli = p.real + 0.5 * p.imag if p.is_complex() else p
        total = total + (weights * moduli).sum()
    return total


def gradients(
    solve: Callable[..., Any],
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    args: Sequence[Tensor] = (),
    *,
    t_grad: bool = True,
    loss: Callable[[Any], Tensor] = weighted,
    **kwargs: Any,
) -> tuple[Any, list[Tensor]]:
    """The solution, and gradients of ``loss`` to every part of ``y0``, every parameter, every argument and ``t``."""
    leaves, spec = flatten(y0)
    leaves = tuple(p.detach().clone().requires_grad_() for p in leaves)
    t = t.detach().clone().requires_grad_(t_grad)
    args = [a.detach().clone().requires_grad_() for a in args]
    params = list(func.parameters()) if isinstance(func, nn.Module) else []
    solution = solve(func, unflatten(spec, leaves), t, *args, **kwargs)
    inputs = [*leaves, *params, *args, *([t] if t_grad else [])]
    return solution, list(torch.autograd.grad(loss(solution), inputs))


def discrete(func: Any, y0: Any, t: Tensor, *args: Any, **kwargs: Any) -> Any:
    """``odeint_adjoint`` with the exact gradient; a plain function needs no parameters."""
    if not isinstance(func, nn.Module):
        kwargs.setdefault("adjoint_params", ())
    return fastode.odeint_adjoint(func, y0, t, *args, gradient="discrete", **kwargs)


def backsolve(func: Any, y0: Any, t: Tensor, *args: Any, **kwargs: Any) -> Any:
    """``odeint_adjoint`` as torchdiffeq has it."""
    if not isinstance(func, nn.Module):
        kwargs.setdefault("adjoint_params", ())
    return fastode.odeint_adjoint(func, y0, t, *args, **kwargs)


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    """Equal in number, shape and dtype, and up to ``tolerance`` relative to the largest element of each."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)
