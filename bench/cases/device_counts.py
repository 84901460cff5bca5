"""Kernels that an attempted step launches on a GPU beyond those of the field, and how often the host waits for it.

Nothing of the kind is on a CPU: ``dispatch`` counts operators there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import fastode

from ..contest import Case, Count, Target
from ..launches import PerStep, Solve, launches, per_step, waits
from ..libraries import absent
from ..problems import Rotation, seeded, state

TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}


def _odeint(odeint: Callable[..., Tensor], y0: Tensor) -> Solve:
    def solve(field: Callable[..., Tensor], end: float) -> Tensor:
        return odeint(field, y0, torch.tensor([0.0, end], device=y0.device), **TOLERANCES)

    return solve


def _torchode(y0: Tensor) -> Solve:
    import torchode

    def solve(field: Callable[..., Tensor], end: float) -> object:
        start = y0.new_zeros(len(y0))
        problem = torchode.InitialValueProblem(y0, start, torch.full_like(start, end))
        term = torchode.ODETerm(field)
        control = torchode.IntegralController(**TOLERANCES, term=term)
        return torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control).to(y0.device).solve(problem)

    return solve


def _rows(y0: Tensor) -> Solve:
    def solve(field: Callable[..., Tensor], end: float) -> object:
        return fastode.solve(field, y0, (0.0, end), **TOLERANCES)

    return solve


@functools.cache
def _pair(peer: str, device: str) -> tuple[PerStep, PerStep]:
    """The peer's and ours: shared steps beside torchdiffeq, steps of each sample's own beside torchode."""
    field, y0 = seeded(Rotation).to(device), state(64, 2).to(device)
    if peer == "torchode":
        solves = (_torchode(y0), _rows(y0))
    else:
        import torchdiffeq

        solves = (_odeint(torchdiffeq.odeint, y0), _odeint(fastode.odeint, y0))
    with torch.no_grad():
        start = torch.zeros((), device=device)
        field(start, y0)
        own = launches(lambda: field(start, y0))
        theirs, ours = (per_step(field, solve, launches, waits, own) for solve in solves)
    return theirs, ours


def _launches(peer: str, *, device: str) -> Count:
    return _count(peer, device, "launches/step", lambda step: step.launches)


def _waits(peer: str, *, device: str) -> Count:
    return _count(peer, device, "waits/step", lambda step: step.waits)


def _looks(peer: str, *, device: str) -> Count:
    return _count(peer, device, "waits/step", lambda step: step.waits + step.looks)


def _count(peer: str, device: str, unit: str, number: Callable[[PerStep], float]) -> Count:
    def measure() -> tuple[float, float]:
        theirs, ours = _pair(peer, device)
        return number(theirs), number(ours)

    labels = {"torchdiffeq": ("odeint", "odeint"), "torchode": ("torchode", "solve")}[peer]
    return Count(measure, unit, *labels)


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """Beside torchdiffeq and torchode; none on a CPU. Where there is a target, the looks every few steps are apart."""
    kinds = (
        ("launches per attempted step 64-2", _launches, Target("value", 9)),
        ("waits per attempted step 64-2", _waits, Target("value", 0)),
        ("waits and looks per attempted step 64-2", _looks, None),
    )
    return [
        Case(
            f"{name}, against {peer}",
            functools.partial(make, peer, device=device),
            target,
            once=True,
            missing=absent(peer, device),
        )
        for peer in ("torchdiffeq", "torchode")
        for name, make, target in kinds
        if device != "cpu"
    ]
