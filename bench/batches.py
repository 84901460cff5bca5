"""Batches whose samples need very different steps: Van der Pol, Lorenz and a neural field, with a number a sample."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .problems import MLPField, seeded, state


class SampleField(nn.Module):
    """An autonomous field with a parameter for each sample: ``forward(t, y [b, n], parameter [b])``.

    Attributes:
        parameter: [B]; what ``forward`` takes for a library that has no arguments for the field.
        alike: whether a sample's slope has the same bits in a batch of any size, as elementwise arithmetic gives it.
    """

    parameter: Tensor
    alike = True

    def __init__(self, parameter: Tensor) -> None:
        super().__init__()
        self.register_buffer("parameter", parameter)

    def slopes(self, y: Sequence[Any], parameter: Any) -> tuple[Any, ...]:
        """The derivative of each component, in arithmetic that torch and jax share."""
        raise NotImplementedError

    def forward(self, t: Tensor, y: Tensor, parameter: Tensor | None = None) -> Tensor:
        return torch.stack(self.slopes(y.unbind(-1), self.parameter if parameter is None else parameter), dim=-1)

    def in_jax(self) -> Callable[..., Any]:
        """The same field for diffrax, for one sample."""
        import jax.numpy as jnp

        return lambda t, y, parameter: jnp.stack(self.slopes(y, parameter))


class VanDerPol(SampleField):
    """``x'' = mu (1 - x^2) x' - x``, with a stiffness for each sample."""

    def slopes(self, y: Sequence[Any], parameter: Any) -> tuple[Any, ...]:
        x, v = y
        return v, parameter * (1 - x * x) * v - x


class Lorenz(SampleField):
    """Lorenz's equations with sigma = 10, beta = 8/3, and a rho for each sample."""

    def slopes(self, y: Sequence[Any], parameter: Any) -> tuple[Any, ...]:
        a, b, c = y
        return 10 * (b - a), a * (parameter - c) - b, a * b - 8 / 3 * c


class NeuralOscillator(SampleField):
    """``y' = s (y J + net(y))``: a rotation J, a network 2-64-64-2 with tanh, and a speed s for each sample."""

    turn: Tensor
    #: a matrix product rounds differently in batches of different size
    alike = False

    def __init__(self, parameter: Tensor) -> None:
        super().__init__(parameter)
        self.net = MLPField(2, 64).net
        self.register_buffer("turn", torch.tensor([[0.0, -1.0], [1.0, 0.0]]))

    def forward(self, t: Tensor, y: Tensor, parameter: Tensor | None = None) -> Tensor:
        speed = self.parameter if parameter is None else parameter
        z = y.to(self.turn.dtype)
        return speed[:, None] * (z @ self.turn + self.net(z)).to(y.dtype)

    def with_products_in_double(self) -> NeuralOscillator:
        """Products in float64, rounded to the state's float32, which hides how they rounded."""
        self.net.double()
        self.turn = self.turn.double()
        self.alike = True
        return self

    def in_jax(self) -> Callable[..., Any]:
        import jax.numpy as jnp

        turn = self.turn.numpy(force=True)
        layers = [m for m in self.net if isinstance(m, nn.Linear)]
        (w1, b1), (w2, b2), (w3, b3) = ((m.weight.numpy(force=True), m.bias.numpy(force=True)) for m in layers)

        def field(t: Any, y: Any, parameter: Any) -> Any:
            hidden = jnp.tanh(w2 @ jnp.tanh(w1 @ y + b1) + b2)
            return parameter * (y @ turn + w3 @ hidden + b3)

        return field


@dataclass(frozen=True)
class Batch:
    """Initial value problems from ``t = 0`` to ``end``, all tensors on one device."""

    field: SampleField
    y0: Tensor
    end: float

    @functools.cached_property
    def reference(self) -> Tensor:
        """The states at the end, [B, n] float64: dopri8 of torchdiffeq, its error held to 1e-9 in every sample."""
        import torchdiffeq

        def worst_sample(y: Tensor) -> Tensor:
            return y.square().mean(dim=-1).sqrt().max()

        field, y0 = copy.deepcopy(self.field).double(), self.y0.double()
        times = torch.tensor([0.0, self.end], dtype=torch.float64, device=y0.device)
        options = {"norm": worst_sample}
        with torch.no_grad():
            return torchdiffeq.odeint(field, y0, times, method="dopri8", rtol=1e-9, atol=1e-9, options=options)[-1]


def _spaced(low: float, high: float, count: int) -> Tensor:
    """Equal ratios from ``low`` to ``high``."""
    return torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), count)


def _van_der_pol(mu: Tensor) -> Batch:
    return Batch(VanDerPol(mu), torch.tensor([[2.0, 0.0]]).repeat(len(mu), 1), 10.0)


def _lorenz(count: int) -> Batch:
    """Starts near a fixed point, away from the saddle at 0, and a short span: no error grows beyond comparison."""
    rho = torch.linspace(20.0, 36.0, count)
    radius = (8 / 3 * (rho - 1)).sqrt()
    return Batch(Lorenz(rho), torch.stack([radius, radius, rho - 1], dim=-1) + 2 * state(count, 3), 1.0)


def _neural(count: int, double: bool = False) -> Batch:
    speed = _spaced(0.5, 20.0, count)
    field = seeded(lambda: NeuralOscillator(speed))
    assert isinstance(field, NeuralOscillator)
    return Batch(field.with_products_in_double() if double else field, state(count, 2), 1.0)


#: by name, with a place for the number of samples
KINDS: dict[str, Callable[[int], Batch]] = {
    "Van der Pol {}": lambda count: _van_der_pol(torch.linspace(0.5, 20.0, count)),
    "Van der Pol {} log": lambda count: _van_der_pol(_spaced(0.5, 20.0, count)),
    "Lorenz {}": _lorenz,
    "neural field {}": _neural,
}
#: the same, and one more whose samples do not feel the size of the batch
COUNTED_KINDS = KINDS | {"neural field {}, products in float64": lambda count: _neural(count, double=True)}
SIZES = (256, 4096)


@functools.cache
def batch(kind: str, count: int, device: str) -> Batch:
    """One of :data:`COUNTED_KINDS`, made once, so that its reference is computed once."""
    made = COUNTED_KINDS[kind](count)
    return Batch(made.field.to(device), made.y0.to(device), made.end)
