"""Operators that a dopri5 step sends through torch's dispatcher beyond those of the field."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch.utils._python_dispatch import TorchDispatchMode

import fastode

from ..contest import Case, Count, Target
from ..problems import Counted, Rotation, seeded, state

#: no tolerance can be missed and every step is this long, so that steps can be counted
STEP = 0.125


class Operators(TorchDispatchMode):
    """Counts operators by name while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.names[name] = self.names.get(name, 0) + 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.names.values())


def operators_per_step(odeint: Callable[..., Any], grad: bool) -> float:
    """By the difference of a long and a short solve, so that what a solve does once drops out."""
    field, y0 = seeded(Rotation), state(64, 2)
    start = torch.zeros(())
    with Operators() as alone, torch.set_grad_enabled(grad):
        field(start, y0)
    totals = []
    for end in (1.0, 1.0, 3.0):  # the first solve of a process may do more, such as measuring torch
        counted = Counted(field)
        t = torch.tensor([0.0, end])
        with Operators() as seen, torch.set_grad_enabled(grad):
            odeint(
                # the bare function: counting steps by a callback would be counted too
                counted.forward, y0, t, rtol=1.0, atol=1.0,
                options={"first_step": STEP, "max_step": STEP},
            )  # fmt: skip
        totals.append(seen.total - alone.total * counted.evaluations[0])
    return (totals[2] - totals[1]) / (2.0 / STEP)


def _measure(grad: bool) -> tuple[float, float]:
    return operators_per_step(torchdiffeq.odeint, grad), operators_per_step(fastode.odeint, grad)


def cases(tiny: bool) -> list[Case]:
    """Without and with a tape."""

    def count(grad: bool) -> Count:
        return Count(functools.partial(_measure, grad), "ops/step", "odeint", "odeint")

    return [
        Case("operators dispatched per step", functools.partial(count, False), Target("value", 10)),
        Case("operators dispatched per step on a tape", functools.partial(count, True)),
    ]
