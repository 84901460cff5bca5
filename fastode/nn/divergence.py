"""The divergence ``tr(df/dy)`` of a vector field: exact, or Hutchinson's estimate.

``exact:       div = sum_i  d f_i / d y_i``
``hutchinson:  div ~ e' (df/dy) e   with E[e e'] = I;  the noise e is drawn once, fixed during a solve``

A field that knows its own divergence (:class:`DivergenceField`, :class:`JvpField`) is asked for it; any other
callable is differentiated by autograd.

Reference: Hutchinson, "A stochastic estimator of the trace", 1990; Grathwohl et al., "FFJORD", ICLR 2019,
eq. 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import InvalidArgument, did_you_mean

Func = Callable[[Tensor, Tensor], Tensor]
NOISES = ("rademacher", "gaussian")


@runtime_checkable
class DivergenceField(Protocol):
    """A field that returns its value ``[B, D]`` and exact divergence ``[B]`` together."""

    def value_and_divergence(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``f(t, y)`` and ``tr(df/dy)``."""


@runtime_checkable
class JvpField(Protocol):
    """A field that returns its value and a Jacobian-vector product, both ``[B, D]``, together."""

    def value_and_jvp(self, t: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``f(t, y)`` and ``(df/dy) v``."""


def sample_noise(like: Tensor, noise: str = "rademacher") -> Tensor:
    """Noise with zero mean and unit covariance, of ``like``'s shape, dtype and device.

    Args:
        like: ``[B, D]``.
        noise: ``"rademacher"`` (+1 or -1; the smaller variance) or ``"gaussian"``.

    Raises:
        InvalidArgument: unknown ``noise``.
    """
    if noise == "rademacher":
        return torch.randint_like(like, 0, 2) * 2 - 1
    if noise == "gaussian":
        return torch.randn_like(like)
    raise InvalidArgument(
        f"`noise={noise!r}` is not known.{did_you_mean(noise, list(NOISES))} Known: {', '.join(NOISES)}"
    )


def exact_divergence(func: Func, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``f(t, y)`` as ``[B, D]`` and ``tr(df/dy)`` as ``[B]``.

    Args:
        func: the field; its rows must not depend on each other.
        t: scalar; the time.
        y: ``[B, D]`` floating; the state.
    """
    if isinstance(func, DivergenceField):
        return func.value_and_divergence(t, y)
    return autograd_divergence(func, t, y)


def hutchinson_divergence(func: Func, t: Tensor, y: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """``f(t, y)`` as ``[B, D]`` and the estimate ``e' (df/dy) e`` as ``[B]``.

    Args:
        func: the field; its rows must not depend on each other.
        t: scalar; the time.
        y: ``[B, D]`` floating; the state.
        e: ``[B, D]``; noise from :func:`sample_noise`.
    """
    if isinstance(func, JvpField):
        value, jvp = func.value_and_jvp(t, y, e)
        return value, (jvp * e).sum(1)
    return autograd_jvp_dot(func, t, y, e)


def autograd_divergence(func: Func, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`exact_divergence` by ``D`` vector-Jacobian products."""
    keep, y = torch.is_grad_enabled(), _leaf(y)
    with torch.enable_grad():
        value = func(t, y)
        n = y.shape[1]
        div = y.new_zeros(y.shape[0])
        for i in range(n):
            # rows are independent: the gradient of a column's sum is row by row d f_i / d y
            div = div + _vjp(value[:, i].sum(), y, None, keep or i < n - 1, keep)[:, i]
    return (value, div) if keep else (value.detach(), div.detach())


def autograd_jvp_dot(func: Func, t: Tensor, y: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`hutchinson_divergence` by one vector-Jacobian product."""
    keep, y = torch.is_grad_enabled(), _leaf(y)
    with torch.enable_grad():
        value = func(t, y)
        div = (_vjp(value, y, e, keep, keep) * e).sum(1)
    return (value, div) if keep else (value.detach(), div.detach())


def _leaf(y: Tensor) -> Tensor:
    """A tensor to differentiate by. The solver's own is never marked in place: its memory is reused."""
    return y if y.requires_grad and torch.is_grad_enabled() else y.detach().requires_grad_()


def _vjp(value: Tensor, y: Tensor, weights: Tensor | None, retain: bool, create: bool) -> Tensor:
    """``weights' d value / d y``; zero where ``value`` does not depend on ``y``."""
    if not value.requires_grad:
        return torch.zeros_like(y)
    (grad,) = torch.autograd.grad(value, y, weights, retain_graph=retain, create_graph=create, allow_unused=True)
    return torch.zeros_like(y) if grad is None else grad
