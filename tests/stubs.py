"""Stand-ins for the parts of a solve, with scripted answers and a record of what they were asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastode.clock import LockstepClock
from fastode.controller import Controller
from fastode.loop import Step
from fastode.problem import Problem
from fastode.stats import SolveStats
from fastode.tableau import ButcherTableau
from fastode.tree import Parts

#: two stages, of which the second is at the new state and serves as the first of the next step
STUB_METHOD = ButcherTableau(
    order=1, c=(0, 1), a=((), (1,)), b=(1, 0), b_error=(-1, 1), b_mid=("0.5", 0), reuse_last_stage=True
)


class StubField:
    """Zero slopes; remembers when and where it was evaluated."""

    traced = False
    copies = False

    def __init__(self) -> None:
        self.times: list[float] = []
        self.values: list[Parts] = []

    def __call__(self, t: Tensor, y: Parts) -> Parts:
        self.times.append(float(t))
        value = tuple(torch.zeros_like(p) for p in y)
        self.values.append(value)
        return value

    def detect_shared_buffer(self, first: Parts, second: Parts) -> None:
        """Nothing is shared."""


class StubKernels:
    """Adds ``dt`` to the state; the error norms are given, 0 when they run out."""

    engine = "stub"
    differentiable = False

    def __init__(self, errors: Iterable[float]) -> None:
        self.errors = iter(errors)
        self.begun: list[tuple[float, float, float]] = []
        self.first_slopes: list[Parts] = []
        self.interpolated: list[float] = []

    def begin(self, t: float, dt: float, t1: float, y: Parts) -> Sequence[Tensor]:
        self.begun.append((t, dt, t1))
        self.y, self.dt = y, dt
        return torch.tensor([t, t1], dtype=torch.float64).unbind(0)

    def stage(self, i: int, k: Parts) -> Parts:
        if i == 1:
            self.first_slopes.append(k)
        return self.y

    def finish(self, k: Parts) -> tuple[Parts, float]:
        return tuple(p + self.dt for p in self.y), next(self.errors, 0.0)

    def interpolate(self, x: float) -> Parts:
        self.interpolated.append(x)
        return self.y

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: Sequence[float]) -> Parts:
        return base

    def norm_of(self, y: Parts, plus: Parts, minus: Parts | None = None) -> float:
        return 1.0


class StubEngine:
    """Binds the same kernels whatever the method."""

    name = "stub"
    reason = ""
    on_device = False

    def __init__(self, errors: Iterable[float] = ()) -> None:
        self.kernels = StubKernels(errors)

    def bind(self, *arguments: Any) -> StubKernels:
        return self.kernels


class StubController:
    """Accepts errors up to 1; multiplies the step by one factor or the other."""

    def __init__(self, grow: float = 1.0, shrink: float = 0.5) -> None:
        self.grow, self.shrink = grow, shrink

    def control(self, err: float, dt: float) -> tuple[bool, float]:
        accept = err <= 1
        return accept, dt * (self.grow if accept else self.shrink)

    def clamp(self, dt: float) -> float:
        return dt


class StubObserver:
    """Ends the solve at ``end``; keeps the steps' ends."""

    def __init__(self, end: float, direction: float = 1.0) -> None:
        self.end, self.direction = end, direction
        self.started: list[float] = []
        self.ends: list[float] = []

    def start(self, t: float, y: Parts) -> bool:
        self.started.append(t)
        return False

    def accepted(self, step: Step) -> bool:
        self.ends.append(step.t1)
        return self.direction * step.t1 >= self.direction * self.end


def make_problem(field: StubField, t: Sequence[float] = (0.0, 1.0)) -> Problem:
    """A problem of one float64 state ``[0., 0.]`` between these times."""
    return Problem(
        field=field,  # type: ignore[arg-type]
        y0=(torch.zeros(2, dtype=torch.float64),),
        t=torch.tensor(t, dtype=torch.float64),
        rtol=[1e-3],
        atol=[1e-3],
        norm="rms",
        direction=-1.0 if t[0] > t[-1] else 1.0,
        time_dtype=torch.float64,
        spec=None,
        stats=SolveStats(),
    )


def make_clock(
    problem: Problem, controller: StubController | Controller | None = None, **options: Any
) -> LockstepClock:
    """The clock of a problem; without limits unless ``options`` set some."""
    defaults: dict[str, Any] = {
        "step_t": [],
        "jump_t": [],
        "max_steps": float("inf"),
        "max_total_steps": float("inf"),
        "round_time": problem.round_time,
    }
    return LockstepClock(
        float(problem.t[0]),
        problem.direction,
        controller or StubController(),  # type: ignore[arg-type]
        problem.stats,
        **{**defaults, **options},
    )


class Operators(TorchDispatchMode):
    """Counts the operators that go through torch's dispatcher while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        self.names[name] = self.names.get(name, 0) + 1
        return func(*args, **(kwargs or {}))

    def more_than(self, other: Operators) -> dict[str, int]:
        """What was counted here and not in ``other``, by name."""
        names = {n: self.names.get(n, 0) - other.names.get(n, 0) for n in {*self.names, *other.names}}
        return {n: count for n, count in names.items() if count}
