"""Solves a field compiled and as it is, with gradients and the account of each solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastode
from fastode.methods import methods
from fastode.stats import SolveStats
from fastode.tableau import ButcherTableau

from .running import assert_close

EXPLICIT = {name: m for name, m in methods().items() if isinstance(m, ButcherTableau)}
FIXED = [name for name, m in EXPLICIT.items() if not m.adaptive]
ADAPTIVE = [name for name, m in EXPLICIT.items() if m.adaptive]
#: those of them whose last stage is at the new state, and so the first of the next step
SHARING = [name for name in ADAPTIVE if EXPLICIT[name].last_stage_is_solution]


class Timed(nn.Module):
    """A small network of the state and, if ``timed``, the time."""

    def __init__(self, timed: bool = True, features: int = 2, width: int = 7) -> None:
        super().__init__()
        self.timed = timed
        self.net = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, features))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        slope = self.net(y)
        return slope * torch.cos(2 * t) + torch.sin(3 * t) if self.timed else slope


@dataclass
class Solved:
    """A solution with the gradients of a scalar of it, and the accounts of the solve."""

    y: Tensor
    grads: list[Tensor]
    stats: SolveStats


def solved(
    func: Callable[..., Any], y0: Tensor, t: Tensor, args: Sequence[Any] = (), leaves: Sequence[Tensor] = (), **how: Any
) -> Solved:
    """The solution from ``y0`` on; gradients of ``y0``, then of ``leaves``, if any of them requires grad."""
    with fastode.stats() as log:
        y = fastode.odeint(func, y0, t, *args, **how)
    inputs = [x for x in (y0, *leaves) if x.requires_grad]
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
    grads = torch.autograd.grad((y * weights).sum(), inputs) if inputs else ()
    return Solved(y.detach(), list(grads), log[0])


def assert_same(
    func: Callable[..., Any],
    y0: Tensor,
    t: Tensor,
    args: Sequence[Any] = (),
    leaves: Sequence[Tensor] = (),
    tolerance: tuple[float, float] = (1e-12, 1e-10),
    **how: Any,
) -> Solved:
    """Compiled, the solve is one native call with the steps, values and gradients of the uncompiled one.

    Args:
        tolerance: of values and of gradients, relative to the largest element.
    """
    expected = solved(func, y0, t, args, leaves, **how)
    found = solved(fastode.compile(func), y0, t, args, leaves, **how)
    assert (found.stats.engine, found.stats.reason) == ("compiled", "")
    assert expected.stats.engine != "compiled"
    assert found.y.shape == expected.y.shape and found.y.dtype == expected.y.dtype
    for name in ("method", "n_func", "n_accepted", "n_rejected"):
        assert getattr(found.stats, name) == getattr(expected.stats, name), name
    assert_close(found.y, expected.y, tolerance[0], "values")
    for i, (g, e) in enumerate(zip(found.grads, expected.grads, strict=True)):
        assert g.shape == e.shape
        assert_close(g, e, tolerance[1], f"gradient {i}")
    return found
