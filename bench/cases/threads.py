"""What a second thread is worth to compiled fields: fastode on two threads beside itself on one."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..compiled import odeint_sides
from ..contest import Case, Contest, Side, Target
from ..flows import fastode_sides
from ..problems import MLPField, exactly, forward_side, seeded, state
from .cnf import exact, exact_size
from .compiled_forward import TOLERANCE

RATIO = 1.8


def _on(threads: int, side: Side) -> Side:
    def run(field: nn.Module) -> Any:
        torch.set_num_threads(threads)
        return side.run(field)

    return replace(side, label=f"{side.label}, threads: {threads}", run=run)


def _forward(batch: int, dims: int, hidden: int) -> Contest:
    y0, t = state(batch, dims), torch.tensor([0.0, 1.0])
    field = seeded(lambda: MLPField(dims, hidden))
    (side,) = odeint_sides(forward_side, field, y0, t, [TOLERANCE])
    return Contest(field, _on(1, side), (_on(2, side),), exactly(field, forward_side, y0, t))


def _flow(batch: int, dims: int, hidden: int) -> Contest:
    flow = exact(batch, dims, hidden)
    (side,) = fastode_sides(flow, [flow.rtol])
    return Contest(flow.field, _on(1, side), (_on(2, side),), lambda: flow.reference)


def cases(tiny: bool) -> list[Case]:
    """A solve and a training step."""
    size = exact_size(16384, tiny)
    missing = "" if (os.cpu_count() or 1) > 1 else "two threads need two cores"
    return [
        Case(name, functools.partial(make, *size), Target("ratio", RATIO), share=0.5, missing=missing, threads=2)
        for name, make in (
            ("compiled forward 16384-2-64, against one thread", _forward),
            ("CNF training 16384-2-64, against one thread", _flow),
        )
    ]
