"""Affine layers that depend on time, and the activations between them.

At a given time both layers are affine in ``x``: ``layer.at(t)`` returns that map. The exact divergence of an
MLP is built from it (``fields.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InvalidArgument, did_you_mean


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative.

    Attributes:
        name: its name.
        value: ``x -> s(x)``.
        slope: ``(x, s(x)) -> s'(x)``; takes both so that nothing is computed twice.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


def _tanh_slope(x: Tensor, s: Tensor) -> Tensor:
    return 1 - s * s


def _softplus_slope(x: Tensor, s: Tensor) -> Tensor:
    return torch.sigmoid(x)


def _silu_slope(x: Tensor, s: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate + s * (1 - gate)


#: the activations by name; smooth ones only, because an adaptive solver stumbles over kinks
ACTIVATIONS = {
    "tanh": Activation("tanh", torch.tanh, _tanh_slope),
    "softplus": Activation("softplus", F.softplus, _softplus_slope),
    "silu": Activation("silu", F.silu, _silu_slope),
}


def activation(name: str) -> Activation:
    """The activation called ``name``.

    Raises:
        InvalidArgument: no such activation.
    """
    if name not in ACTIVATIONS:
        known = list(ACTIVATIONS)
        raise InvalidArgument(
            f"`activation={name!r}` is not known.{did_you_mean(name, known)} Known: {', '.join(known)}"
        )
    return ACTIVATIONS[name]


def time_column(t: Tensor) -> Tensor:
    """``t`` so that it broadcasts against ``[B, D]``: a scalar stays, one time per sample is ``[B, 1]``."""
    return t if t.dim() == 0 else t.reshape(-1, 1)


class ConcatLinear(nn.Module):
    """``W x + w t + b``: a linear layer that sees time as one more input.

    Args:
        n_in, n_out: features in and out.

    Reference: Grathwohl et al., "FFJORD", ICLR 2019, Appendix B.1 ("concat"). The weight of the time input is
    kept apart, so nothing is concatenated.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.time_weight = nn.Parameter(torch.empty(n_out))
        bound = 1 / math.sqrt(n_in + 1)
        for p in self.parameters():
            nn.init.uniform_(p, -bound, bound)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The affine map at a scalar time: weight ``[n_out, n_in]`` and bias ``[n_out]``."""
        return self.weight, torch.addcmul(self.bias, self.time_weight, t)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            t: scalar, ``[B]`` or ``[B, 1]``; the time.
            x: ``[B, n_in]``.
        """
        return F.linear(x, self.weight, self.bias) + self.time_weight * time_column(t)

    def zero_(self) -> None:
        """Make the layer return zero for every input and time."""
        for p in self.parameters():
            nn.init.zeros_(p)


class ConcatSquashLinear(nn.Module):
    """``(W x + b) * sigmoid(g t + c) + h t``: a linear layer whose outputs are gated and shifted by time.

    Args:
        n_in, n_out: features in and out.

    Reference: Grathwohl et al., "FFJORD", ICLR 2019, Appendix B.1 ("concatsquash"); the parameters and their
    initialisation are those of the authors' ``ConcatSquashLinear``.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.gate_weight = nn.Parameter(torch.empty(n_out))
        self.gate_bias = nn.Parameter(torch.empty(n_out))
        self.time_weight = nn.Parameter(torch.empty(n_out))
        bound = 1 / math.sqrt(n_in)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        # torch's default for a Linear with one input
        for p in (self.gate_weight, self.gate_bias, self.time_weight):
            nn.init.uniform_(p, -1.0, 1.0)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The affine map at a scalar time: weight ``[n_out, n_in]`` and bias ``[n_out]``."""
        gate = torch.sigmoid(torch.addcmul(self.gate_bias, self.gate_weight, t))
        return self.weight * gate[:, None], torch.addcmul(self.time_weight * t, self.bias, gate)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            t: scalar, ``[B]`` or ``[B, 1]``; the time.
            x: ``[B, n_in]``.
        """
        t = time_column(t)
        gate = torch.sigmoid(self.gate_weight * t + self.gate_bias)
        return F.linear(x, self.weight, self.bias) * gate + self.time_weight * t

    def zero_(self) -> None:
        """Make the layer return zero for every input and time."""
        for p in (self.weight, self.bias, self.time_weight):
            nn.init.zeros_(p)


TimeLayer = ConcatLinear | ConcatSquashLinear

#: the layers by name
LAYERS: dict[str, type[ConcatLinear] | type[ConcatSquashLinear]] = {
    "concat": ConcatLinear,
    "concatsquash": ConcatSquashLinear,
}
