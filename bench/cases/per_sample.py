"""Every sample its own steps, beside torchode, on a batch whose samples need very different ones."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

import fastode

from ..contest import Case, Contest, Side, Target
from ..problems import exactly, forward_side, joined

TOLERANCE = 1e-5
SPAN = 10.0


class VanDerPol(nn.Module):
    """``x'' = mu (1 - x^2) x' - x``, with a stiffness for each sample."""

    def __init__(self, mu: Tensor) -> None:
        super().__init__()
        self.register_buffer("mu", mu)

    def forward(self, t: Tensor, y: Tensor, mu: Tensor | None = None) -> Tensor:
        x, v = y.unbind(-1)
        mu = self.mu if mu is None else mu
        return torch.stack([v, mu * (1 - x * x) * v - x], dim=-1)


def _torchode(y0: Tensor) -> Side:
    import torchode

    rows = len(y0)

    @torch.no_grad()
    def run(field: nn.Module) -> Any:
        term = torchode.ODETerm(field)
        control = torchode.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
        solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
        problem = torchode.InitialValueProblem(y0, torch.zeros(rows), torch.full((rows,), SPAN))
        return solver.solve(problem).ys[:, -1]

    return Side("torchode", run, joined)


def _fastode(y0: Tensor, mu: Tensor) -> Side:
    @torch.no_grad()
    def run(field: nn.Module) -> Any:
        span = (0.0, SPAN)
        return fastode.solve(field, y0, span, args=(mu,), rtol=TOLERANCE, atol=TOLERANCE).raise_for_status().y

    return Side("solve", run, joined)


def _contest(batch: int, logarithmic: bool) -> Contest:
    low, high = torch.tensor([0.5, 20.0]).log() if logarithmic else torch.tensor([0.5, 20.0])
    mu = torch.linspace(float(low), float(high), batch)
    mu = mu.exp() if logarithmic else mu
    y0 = torch.tensor([[2.0, 0.0]]).repeat(batch, 1)
    field = VanDerPol(mu)
    ends = exactly(field, forward_side, y0, torch.tensor([0.0, SPAN]))
    return Contest(field, _torchode(y0), (_fastode(y0, mu),), lambda: ends()[2 * batch :])


def cases(tiny: bool) -> list[Case]:
    """None where torchode is not installed: it is in the extra ``bench``."""
    if importlib.util.find_spec("torchode") is None:
        return []
    target = Target("ratio", 5)
    return [
        Case(
            f"per sample Van der Pol {batch}{' log' if logarithmic else ''}, against torchode",
            functools.partial(_contest, 3 if tiny else batch, logarithmic),
            None if logarithmic else target,
        )
        for batch, logarithmic in ((256, False), (4096, False), (4096, True))
    ]
