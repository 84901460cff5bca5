"""A list of vector fields, each with the states it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One field.

    Attributes:
        func: ``func(t, y, *args)``.
        y_shape: of a state.
        args: further arguments, ``per_row`` of which have an entry for each row.
        unbatched: whether the field takes a single state too.
        time_per_row: whether the field takes one time for each row.
    """

    func: Callable[..., Any]
    y_shape: tuple[int, ...]
    args: tuple[Any, ...] = ()
    per_row: tuple[int, ...] = ()
    unbatched: bool = True
    time_per_row: bool = True


CASES: dict[str, Callable[[], Case]] = {}


def case(*y_shape: int, **settings: Any) -> Callable[[Callable[[], Any]], Callable[[], Case]]:
    """Registers a function that makes a field (with ``args`` if any)."""

    def register(make: Callable[[], Any]) -> Callable[[], Case]:
        def made() -> Case:
            result = make()
            func, *args = result if isinstance(result, tuple) else (result,)
            return Case(func, y_shape, tuple(args), **settings)

        CASES[make.__name__] = made
        return made

    return register


def field(*y_shape: int, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a field that is a plain function."""

    def register(func: Callable[..., Any]) -> Callable[..., Any]:
        CASES[func.__name__] = lambda: Case(func, y_shape, **settings)
        return func

    return register


def column(t: Tensor, y: Tensor) -> Tensor:
    """Time as a feature of ``y``: [B, 1] or [1]."""
    if y.dim() == 1:
        return t.reshape(1)
    return t.reshape(-1, 1).expand(y.shape[0], 1)


class Wrapped(nn.Module):
    """``net(y)`` or ``net([y, t])`` as a field."""

    def __init__(self, net: nn.Module, timed: bool = False) -> None:
        super().__init__()
        self.net = net
        self.timed = timed

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, column(t, y)], -1) if self.timed else y)
