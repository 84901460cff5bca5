"""Training steps of continuous normalizing flows: minus the mean log density, and its gradient of the parameters."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastode
from fastode.nn import CNF

from .compiled import natively
from .contest import Side
from .problems import Counted, FlowField, joined

#: elements of the widest layer that the reference is computed for at once: a tape through dopri8 in float64 is long
CHUNK = 2**18


@dataclass(frozen=True)
class Flow:
    """A flow from a standard normal at 0 to data at 1.

    Attributes:
        drift: ``dz/dt``.
        x: [B, D]; the data.
        noise: [B, D], of Hutchinson's estimate; None for the exact trace.
        rtol, atol: of every library.
    """

    drift: nn.Module
    x: Tensor
    noise: Tensor | None
    rtol: float
    atol: float

    @functools.cached_property
    def field(self) -> FlowField:
        """For torchdiffeq."""
        return FlowField(self.drift, self.noise)

    @functools.cached_property
    def reference(self) -> Tensor:
        """The gradient in float64 at a tight tolerance, by dopri8 of torchdiffeq."""
        import torchdiffeq

        total = torch.zeros((), dtype=torch.float64)
        drift = copy.deepcopy(self.drift).double()
        widest = max(p.shape[0] for p in drift.parameters())
        for rows in torch.arange(len(self.x), device=self.x.device).split(max(1, CHUNK // widest)):
            noise = None if self.noise is None else self.noise[rows].double()
            side = _training_side("", torchdiffeq.odeint, self.x[rows].double(), 1e-9, 1e-9, method="dopri8")
            total = total + side.result(side.run(FlowField(drift, noise))) * len(rows) / len(self.x)
        return total


def torchdiffeq_side(label: str, solve: Callable[..., Any], flow: Flow) -> Side:
    """The divergence by autograd; ``solve`` as torchdiffeq's ``odeint``."""
    return _training_side(label, solve, flow.x, flow.rtol, flow.atol)


def fastode_sides(flow: Flow, tolerances: Sequence[float]) -> tuple[Side, ...]:
    """``CNF``, compiled; one side for each ``rtol``."""
    trace = "exact" if flow.noise is None else "hutchinson"

    def run(cnf: Any) -> Any:
        return _gradients(cnf, -cnf.log_prob(flow.x, noise=flow.noise).mean())

    return tuple(
        natively(
            Side(f"CNF at {rtol:.0e}", run, joined),
            CNF(flow.drift, flow.x.shape[1], trace=trace, rtol=rtol, atol=rtol * flow.atol / flow.rtol),
        )
        for rtol in tolerances
    )


def compiled_side(flow: Flow) -> Side:
    """torchdiffeq's call and field as they are, but for ``fastode.compile``."""
    side = _training_side("odeint_adjoint of the compiled field", fastode.odeint_adjoint, flow.x, flow.rtol, flow.atol)
    return natively(side, fastode.compile(FlowField(flow.drift)))


def _training_side(label: str, solve: Callable[..., Any], x: Tensor, rtol: float, atol: float, **options: Any) -> Side:
    t, start = x.new_tensor([1.0, 0.0]), x.new_zeros(len(x))
    normal = torch.distributions.Normal(x.new_zeros(()), x.new_ones(()), validate_args=False)

    def run(field: nn.Module) -> Any:
        z, change = solve(field, (x, start), t, rtol=rtol, atol=atol, **options)
        return _gradients(field, (change[-1] - normal.log_prob(z[-1]).sum(1)).mean())

    return Side(label, run, joined)


def _gradients(field: nn.Module, loss: Tensor) -> tuple[Tensor | None, ...]:
    for p in field.parameters():
        p.grad = None
    if isinstance(field, Counted):
        field.turn()
    loss.backward()
    return tuple(p.grad for p in field.parameters())
