"""The vector fields that are timed, and how their evaluations are counted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .contest import Side

State = Tensor | tuple[Tensor, Tensor]


class MLPField(nn.Module):
    """``dy/dt = W3 tanh(W2 tanh(W1 y + b1) + b2) + b3``, the field of the neural ODE literature."""

    def __init__(self, dims: int, hidden: int) -> None:
        super().__init__()
        layers = (nn.Linear(dims, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, dims))
        self.net = nn.Sequential(*layers)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


class Rotation(nn.Module):
    """``dy/dt = y A`` with ``exp(A)`` a rotation: one operator, many steps; what is left is the solver."""

    def __init__(self, speed: float = 5.0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.0, speed], [-speed, 0.0]]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix


class FlowField(nn.Module):
    """A continuous normalizing flow as FFJORD has it: state ``(z, logp)``, divergence by autograd.

    Args:
        drift: ``dz/dt``.
        noise: [B, D], of Hutchinson's estimate, which takes one pass; without it, one pass for each dimension.
    """

    noise: Tensor | None

    def __init__(self, drift: nn.Module, noise: Tensor | None = None) -> None:
        super().__init__()
        self.drift = drift
        self.register_buffer("noise", noise)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z = state[0]
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            if not z.requires_grad:
                z = z.detach().requires_grad_()
            dz = self.drift(t, z)
            if self.noise is not None:
                trace = (torch.autograd.grad(dz, z, self.noise, create_graph=True)[0] * self.noise).sum(1)
            else:
                trace = torch.zeros_like(z[:, 0])
                for i in range(z.shape[1]):
                    trace = trace + torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i]
        return (dz, -trace) if keep else (dz.detach(), -trace.detach())


class Counted(nn.Module):
    """A field that counts: evaluations before and after :meth:`turn`, and attempted steps of the forward solve.

    Attributes:
        steps_by_sample: [B], where a library told them; ``steps`` are those of the slowest sample then.
    """

    steps_by_sample: Tensor | None = None

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.evaluations = [0, 0]
        self.steps = 0
        self.phase = 0

    def forward(self, t: Tensor, y: Any, *args: Any) -> Any:
        self.evaluations[self.phase] += 1
        return self.field(t, y, *args)

    def callback_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        """Called by both libraries at every attempted step."""
        if self.phase == 0:
            self.steps += 1

    def turn(self) -> None:
        """The backward pass begins."""
        self.phase = 1


def state(batch: int, dims: int) -> Tensor:
    """A fixed random state."""
    return torch.randn(batch, dims, generator=torch.Generator().manual_seed(1))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A field with fixed random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def in_double(y: Any) -> Any:
    """A state in float64."""
    return y.double() if isinstance(y, Tensor) else tuple(p.double() for p in y)


def joined(y: Any) -> Tensor:
    """A solution as one vector in float64, on the CPU."""
    parts = (y,) if isinstance(y, Tensor) else y
    return torch.cat([p.detach().reshape(-1).double().cpu() for p in parts])


def forward_side(label: str, solve: Callable[..., Any], y0: Any, t: Tensor, **options: Any) -> Side:
    """A solve without gradients."""

    def run(field: nn.Module) -> Any:
        with torch.no_grad():
            return solve(field, y0, t, **options)

    return Side(label, run, joined)


def training_side(label: str, solve: Callable[..., Any], y0: Any, t: Tensor, **options: Any) -> Side:
    """A training step: solve, mean square of all outputs, gradients of the parameters."""

    def run(field: nn.Module) -> Any:
        for p in field.parameters():
            p.grad = None
        y = solve(field, y0, t, **options)
        parts = (y,) if isinstance(y, Tensor) else y
        loss = sum(p.square().mean() for p in parts)
        if isinstance(field, Counted):
            field.turn()
        loss.backward()
        return tuple(p.grad for p in field.parameters())

    return Side(label, run, joined)


def exactly(field: nn.Module, make: Callable[..., Side], y0: Any, t: Tensor) -> Callable[[], Tensor]:
    """The same quantity in float64 at a tight tolerance: dopri8 of torchdiffeq, the independent judge."""

    def reference() -> Tensor:
        import torchdiffeq

        side = make("reference", torchdiffeq.odeint, in_double(y0), t.double(), method="dopri8", rtol=1e-11, atol=1e-11)
        return side.result(side.run(copy.deepcopy(field).double()))

    return reference
