"""Gradient of an event's time and state by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidArgument
from .tree import flatten, unflatten


def attach_event_gradient(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    event_fn: Callable[[Tensor, Any], Tensor],
    event_t: Tensor,
    solution: Any,
) -> tuple[Tensor, Any]:
    """Make ``event_t`` and the final state depend on everything the event depends on.

    With ``c(t, y)`` the event function and ``f`` the field, ``c(t*, y(t*)) = 0`` gives
    ``dt* = -(dc/dy dy + dc/dtheta dtheta) / (dc/dt + dc/dy f)`` and the state moves by ``f dt*``.

    Returns:
        The same values, ``event_t`` 0-dim, with these gradients (first order).
    """
    leaves, spec = flatten(solution, "solution")
    final = tuple([s[-1] for s in leaves])
    if not torch.is_grad_enabled():
        return event_t, solution
    time = event_t.detach().to(_real(final[0]))
    with torch.enable_grad():
        c = _first_component(event_fn, time, unflatten(spec, final))
        if not c.requires_grad:
            return event_t, solution
        slope, velocity = _rate(func, args, event_fn, time, tuple(p.detach() for p in final), spec)
        # value 0, gradient that of the implicit function
        shift = -(c - c.detach()) / slope
        moved = event_t.detach() + shift.to(event_t.dtype)
        final = tuple([y + f * shift.to(f.dtype) for y, f in zip(final, velocity, strict=True)])
        joined = [torch.cat([s[:-1], y[None]]) for s, y in zip(leaves, final, strict=True)]
    return moved, unflatten(spec, joined)


def _real(x: Tensor) -> torch.dtype:
    return x.real.dtype if x.is_complex() else x.dtype


def _first_component(event_fn: Callable[[Tensor, Any], Tensor], t: Tensor, state: Any) -> Tensor:
    """The component of the event function that has its root here."""
    value = event_fn(t, state)
    if not isinstance(value, Tensor):
        raise InvalidArgument(f"event_fn(t, y) must return a torch.Tensor, but returned a {type(value).__name__}")
    flat = value.reshape(-1)
    return flat[flat.detach().abs().argmin()]


def _rate(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    event_fn: Callable[[Tensor, Any], Tensor],
    time: Tensor,
    state: tuple[Tensor, ...],
    spec: Any,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``dc/dt + dc/dy f`` at the event, and ``f`` there; both constants."""
    t = time.detach().requires_grad_()
    y = tuple([p.detach().requires_grad_() for p in state])
    velocity = tuple([f.detach() for f in flatten(func(t, unflatten(spec, y), *args), "func(t, y)")[0]])
    c = _first_component(event_fn, t, unflatten(spec, y))
    gradients = torch.autograd.grad(c, (t, *y), allow_unused=True) if c.requires_grad else [None] * (1 + len(y))
    rate = torch.zeros_like(time)
    if gradients[0] is not None:
        rate = rate + gradients[0]
    for g, f in zip(gradients[1:], velocity, strict=True):
        if g is not None:
            rate = rate + (g.conj() * f).real.sum().to(rate.dtype) if g.is_complex() else rate + (g * f).sum()
    return rate + 1e-12, velocity
