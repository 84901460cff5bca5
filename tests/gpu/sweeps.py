"""Recorded solves whose gradients torch finds: a Runge-Kutta step in plain torch, for any steps and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastode
from fastode.compiler.evaluate import evaluate
from fastode.compiler.gpu.fused_sweep import FusedSweep
from fastode.compiler.gpu.settings import Settings
from fastode.compiler.program import Program
from fastode.kernels.reference import quartic_weights
from fastode.tableau import ButcherTableau

from .fields import Traced

Slope = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Leaves:
    """What is differentiated, in float64; all of it requires grad.

    Attributes:
        y: [R, features].
    """

    y: Tensor
    arguments: list[Tensor]
    constants: list[Tensor]

    @classmethod
    def of(cls, found: Traced, y: Tensor) -> Leaves:
        def leaf(x: Tensor) -> Tensor:
            return x.detach().double().requires_grad_()

        return cls(leaf(y), [leaf(a) for a in found.arguments], [leaf(c) for c in found.constants])

    def slope(self, program: Program, rows: slice = slice(None)) -> Slope:
        """The field of some rows, for a time that is 0-dim or of each of them."""
        arguments = [a[rows] for a in self.arguments]

        def slope(t: Tensor, y: Tensor) -> Tensor:
            (k,) = evaluate(program, t, y[:, : program.state_width], arguments, self.constants)
            return k

        return slope

    def gradients(self, outputs: Tensor, grad: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Of ``(outputs * grad).sum()``; zeros where nothing depends on a leaf."""
        leaves = [self.y, *self.arguments, *self.constants]
        found = torch.autograd.grad(outputs, leaves, grad.double(), allow_unused=True)
        y, *others = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
        n = len(self.arguments)
        return y, others[:n], others[n:]


def sweeps(found: Traced, **settings: Any) -> FusedSweep:
    """The sweeps of a program, with the gradients of everything."""
    return FusedSweep(
        found.program,
        found.dtype,
        found.shared_time,
        range(len(found.constants)),
        range(len(found.arguments)),
        Settings(**{"rows": 16, **settings}),
    )


def constants_of(func: Callable[..., Any], y: Tensor) -> list[Tensor]:
    """The constants of a field's program, with their graph."""
    native = fastode.compile(func).native(y, ())
    return native.constants((), y.dtype)


def step_of(
    tableau: ButcherTableau, slope: Slope, t: Tensor, dt: Tensor, y: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The new state of one step and its quartic; ``t`` and ``dt`` are 0-dim or [R]."""
    size = dt.reshape(-1, 1)
    k: list[Tensor] = []
    for node, line in zip(tableau.nodes, tableau.matrix, strict=True):
        z = y + size * sum((a * x for a, x in zip(line, k, strict=False)), torch.zeros_like(y))
        k.append(slope(t + node * dt, z))
    new = y + size * sum(b * x for b, x in zip(tableau.weights, k, strict=True))

    def quartic(x: Tensor) -> Tensor:
        w, theta = quartic_weights(x.reshape(-1, 1), tableau.mid_weights)
        return y + w * (new - y) + size * sum(v * f for v, f in zip(theta, k, strict=True))

    return new, quartic


def close(found: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype, tolerance: float = 0.0) -> None:
    """Each within some roundings of its largest element, as all elements are sums of products of like size."""
    tolerance = tolerance or (1e-4 if dtype == torch.float32 else 1e-11)
    assert len(found) == len(expected)
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == dtype
        assert a.shape == b.shape
        scale = max(1e-3, float(b.abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(
            a.double() / scale, b / scale, rtol=0, atol=tolerance, msg=lambda m, n=n: f"gradient {n}: {m}"
        )
