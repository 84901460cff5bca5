"""Norms of the augmented state ``(adj_t, y, adj_y, *adj_params)`` of a backward solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels.norms import by_name
from ..kernels.reference.finish import rms
from .node import Layout


class AdjointNorm:
    """max(|adj_t|, norm(y), norm(adj_y), rms of each parameter's gradient); without the latter as a seminorm.

    Args:
        state_norm: the forward solve's ``options["norm"]``: None, a name, or a callable of the user's state.

    Reference: Kidger, Chen, Lyons, "Hey, that's not an ODE: faster ODE adjoints via seminorms", 2021.
    """

    def __init__(self, state_norm: Any, layout: Layout, seminorm: bool) -> None:
        self.state_norm = state_norm
        self.layout = layout
        self.seminorm = seminorm

    @property
    def plain(self) -> bool:
        """Whether every part is measured by its root mean square, which kernels compute themselves."""
        return self.state_norm is None or self.state_norm == "rms"

    def __call__(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The norm of ``(adj_t, y, adj_y, *adj_params)``; tuple states flattened."""
        adj_t, y, adj_y, *params = parts
        values = [adj_t.abs(), self._of_state(y), self._of_state(adj_y)]
        if not self.seminorm:
            values += [rms(p) for p in params]
        return torch.stack([v.reshape(()) for v in values]).max()

    def _of_state(self, flat: Tensor) -> Tensor:
        if callable(self.state_norm):
            value: Tensor = self.state_norm(self.layout.restore(flat))
            return value
        norm = by_name(self.state_norm or "rms")
        return torch.stack([norm(p) for p in self.layout.split(flat)]).max()


class UserAdjointNorm:
    """A user's norm of ``(adj_t, *y, *adj_y, *adj_params)`` where the state is a tuple."""

    def __init__(self, norm: Callable[[Any], Any], layout: Layout) -> None:
        self.norm = norm
        self.layout = layout

    def __call__(self, parts: tuple[Tensor, ...]) -> Any:
        adj_t, y, adj_y, *params = parts
        return self.norm((adj_t, *self.layout.split(y), *self.layout.split(adj_y), *params))
