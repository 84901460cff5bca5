"""Time-dependent MLP vector fields that know their own divergence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InvalidArgument, did_you_mean
from .layers import LAYERS, TimeLayer, activation


class MLPField(nn.Module):
    """A multilayer perceptron ``f(t, y)`` whose layers see time.

    ``f = L_n(t, s(... s(L_1(t, y))))`` with ``L_i`` a layer of ``layers.py`` and ``s`` a smooth activation.

    Args:
        dim: features of the state, ``D``.
        hidden: widths of the hidden layers.
        layer: ``"concatsquash"`` (FFJORD's default) or ``"concat"``.
        activation: ``"tanh"``, ``"softplus"`` or ``"silu"``.
        zero_init: start with the last layer at zero. A flow is then the identity map before training.

    Raises:
        InvalidArgument: unknown layer or activation, or sizes that are not positive.

    The divergence is exact and needs no autograd: see :meth:`value_and_divergence`.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        layer: str = "concatsquash",
        activation: str = "tanh",
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        if layer not in LAYERS:
            known = list(LAYERS)
            raise InvalidArgument(
                f"`layer={layer!r}` is not known.{did_you_mean(layer, known)} Known: {', '.join(known)}"
            )
        sizes = [dim, *hidden, dim]
        if not hidden or min(sizes) < 1:
            raise InvalidArgument(
                f"`dim={dim}`, `hidden={tuple(hidden)}`: every size must be at least 1 and there must be a "
                "hidden layer; for example `MLPField(2, hidden=(64, 64))`"
            )
        self.dim = dim
        self.activation = activation
        self._check_activation()
        self.layers = nn.ModuleList(LAYERS[layer](a, b) for a, b in pairwise(sizes))
        if zero_init:
            self._affine[-1].zero_()

    def _check_activation(self) -> None:
        activation(self.activation)

    @property
    def _affine(self) -> list[TimeLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"activation={self.activation!r}"

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The derivative ``dy/dt``.

        Args:
            t: scalar, or ``[B]`` for one time per sample.
            y: ``[B, D]``; the state.
        """
        s = activation(self.activation).value
        *inner, last = self.layers
        for layer in inner:
            y = s(layer(t, y))
        out: Tensor = last(t, y)
        return out

    def value_and_divergence(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``f(t, y)`` as ``[B, D]`` and its divergence ``tr(df/dy)`` as ``[B]``, exact.

        One hidden layer: ``tr(W2 S1 W1) = s1 . diag(W1 W2)``. Two: ``tr(W3 S2 W2 S1 W1) = s2' K s1`` with
        ``K = W2 * (W1 W3)'`` (elementwise), one more matrix product, whatever ``D`` is. Deeper: ``D``
        tangents are pushed through the layers together. ``S_i`` is the diagonal of the activations' slopes
        ``s_i``.

        Args:
            t: scalar; the time.
            y: ``[B, D]``; the state.
        """
        maps = [layer.at(t) for layer in self._affine]
        value, slopes = self._run(maps, y)
        if len(slopes) == 1:
            return value, slopes[0] @ (maps[0][0] * maps[1][0].T).sum(1)
        if len(slopes) == 2:
            k = maps[1][0] * (maps[0][0] @ maps[2][0]).T
            return value, (F.linear(slopes[0], k) * slopes[1]).sum(1)
        # tangents [D, B, h]; the first layer sends unit vector d to column d of its weight
        v = maps[0][0].T[:, None, :] * slopes[0]
        for (weight, _), slope in zip(maps[1:-1], slopes[1:], strict=True):
            v = F.linear(v, weight) * slope
        return value, torch.einsum("dbh,dh->b", v, maps[-1][0])

    def value_and_jvp(self, t: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``f(t, y)`` and the Jacobian-vector product ``(df/dy) v``, both ``[B, D]``.

        Args:
            t: scalar; the time.
            y: ``[B, D]``; the state.
            v: ``[B, D]``; one tangent per sample.
        """
        maps = [layer.at(t) for layer in self._affine]
        value, slopes = self._run(maps, y)
        for (weight, _), slope in zip(maps[:-1], slopes, strict=True):
            v = F.linear(v, weight) * slope
        return value, F.linear(v, maps[-1][0])

    def _run(self, maps: list[tuple[Tensor, Tensor]], y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The value, and the slopes of the activations on the way."""
        act = activation(self.activation)
        slopes = []
        for weight, bias in maps[:-1]:
            x = F.linear(y, weight, bias)
            y = act.value(x)
            slopes.append(act.slope(x, y))
        weight, bias = maps[-1]
        return F.linear(y, weight, bias), slopes
