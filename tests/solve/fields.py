"""Problems whose rows need very different steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tensor(*values: float) -> Tensor:
    """[len(values)] float64."""
    return torch.tensor(values, dtype=torch.float64)


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x], dim=-1)


def decay(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """``y0 exp(-rate (t - t0))``."""
    return -rate.view(-1, *[1] * (y.ndim - 1)) * y


class Net(nn.Module):
    """A small field with parameters, time and a parameter for each row."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 3, dtype=torch.float64, generator=generator))
        self.bias = nn.Parameter(torch.randn(3, dtype=torch.float64, generator=generator))

    def forward(self, t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return scale[:, None] * torch.tanh((y[:, :, None] * self.weight).sum(1) + self.bias * t[:, None])
