"""How the steps of a native solve are found: from tolerances and options of the controller, or from a grid."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _native
from ..fixed_grid import grid_from_step_size
from ..options import controller_of, graph_option, number_option, stops_of
from ..problem import check_tolerance
from ..tableau import ButcherTableau
from .refusal import NotServed

#: coefficients of a step's polynomial: of the quartic of a chosen step, of the line of a given one
QUARTIC, LINE = 5, 2
#: options that the engine knows, of either kind
OF_CHOSEN_STEPS = frozenset(
    [
        "first_step", "min_step", "max_step", "safety", "ifactor", "dfactor", "step_t", "max_num_steps",
        "max_total_steps", "cuda_graph",  # the last has no effect: launches are few as it is
    ]
)  # fmt: skip
OF_GIVEN_STEPS = frozenset(["step_size", "interp"])


@dataclass
class AdaptiveSteps:
    """Steps chosen by the controller; all numbers in units of t.

    Attributes:
        rtol, atol: one number each, or one for each feature.
        limits: order, safety, least and largest factor, least and largest step.
        first_step: 0 for Hairer's heuristic.
        parts: where each part of the state ends, in features; the error norm is the largest of theirs.
        stops: times on which a step must end, in the order in which they come.
    """

    rtol: list[float]
    atol: list[float]
    limits: tuple[float, float, float, float, float, float]
    first_step: float
    max_steps: float
    max_total_steps: float
    parts: Sequence[int]
    stops: Sequence[float] = ()

    @functools.cached_property
    def native(self) -> _native.FieldSteps:
        """The same as the engine takes them."""
        return _native.FieldSteps(
            self.rtol,
            self.atol,
            self.limits,
            self.first_step,
            self.max_steps,
            self.max_total_steps,
            self.parts,
            self.stops,
        )


@dataclass
class GridSteps:
    """Given steps.

    Attributes:
        points: ends of the steps.
        output_step, output_x: where each output lies; step -1 is the initial state.
        output_power: -1 (the default) for the state there, p for the coefficient of x^p of the step's polynomial.
    """

    points: list[float]
    output_step: list[int]
    output_x: list[float]
    output_power: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output_power = self.output_power or [-1] * len(self.output_step)


def lines(points: list[float]) -> GridSteps:
    """Steps between neighbouring points whose outputs are their polynomials."""
    count = len(points) - 1
    of_steps = [step for step in range(count) for _ in range(LINE)]
    return GridSteps(points, of_steps, [0.0] * len(of_steps), [*range(LINE)] * count)


def direction(times: Sequence[float]) -> float:
    """+1 or -1: in which they go."""
    return -1.0 if len(times) > 1 and times[1] < times[0] else 1.0


def chosen_steps(
    tableau: ButcherTableau,
    rtol: Any,
    atol: Any,
    options: Mapping[str, Any],
    times: list[float],
    y0: Tensor,
    batched: bool,
    parts: tuple[int, ...],
) -> AdaptiveSteps:
    """Those of the controller.

    Args:
        times: of the outputs; the first is the initial one.
        y0: the state; ``batched`` if its first axis is one of rows.
        parts: where each part of the engine's state ends, in features.

    Raises:
        NotServed: a tolerance that the engine does not know.
        InvalidArgument: a tolerance or an option is wrong.
    """
    if not options and type(rtol) is float and type(atol) is float:
        return _standard(tableau, rtol, atol, parts)
    row = y0.shape[1:] if batched else y0.shape
    tolerances = _tolerances(rtol, atol, y0, row, tensors=parts[-1] == math.prod(row))
    return _adaptive(tableau, *tolerances, options, parts, times)


def _standard(tableau: ButcherTableau, rtol: float, atol: float, parts: tuple[int, ...]) -> AdaptiveSteps:
    """Without options; kept, as most solves are like the one before."""
    key = (id(tableau), rtol, atol, parts)
    known = _known_steps.get(key)
    if known is None:
        if len(_known_steps) > 1000:
            _known_steps.clear()
        steps = _adaptive(tableau, [_number(rtol)], [_number(atol)], {}, parts, ())
        known = _known_steps[key] = (tableau, steps)
    return known[1]


#: steps of :func:`_standard`; each tableau is kept alive beside them
_known_steps: dict[tuple[int, float, float, tuple[int, ...]], tuple[ButcherTableau, AdaptiveSteps]] = {}


def _number(tol: Any) -> float:
    if not isinstance(tol, float | int) or not tol >= 0:
        raise NotServed("tolerances that are not numbers or tensors")
    return float(tol)


def _tolerances(rtol: Any, atol: Any, y0: Tensor, row: torch.Size, tensors: bool) -> tuple[list[float], list[float]]:
    """One number each, or one for each feature if either is a tensor that says so.

    Args:
        row: shape of one row of ``y0``.
        tensors: whether they may be tensors: a divergence beside the state has no tolerance of its own.

    Raises:
        NotServed: something else, or rows have tolerances of their own.
        InvalidArgument: a tensor does not broadcast with the state, is negative or requires grad.
    """
    found = []
    for name, tol in (("rtol", rtol), ("atol", atol)):
        if not tensors or not isinstance(tol, Tensor):
            found.append(torch.tensor(_number(tol), dtype=torch.float64))
            continue
        (checked,) = check_tolerance(name, tol, (y0,), None, torch.float64)
        each = torch.as_tensor(checked, dtype=torch.float64).cpu()
        if each.ndim > len(row):
            if each.shape[0] != 1:
                raise NotServed("tolerances of each row")
            each = each[0]
        found.append(each)
    if any(each.numel() > 1 for each in found):
        found = [each.expand(row) for each in found]
    relative, absolute = (each.flatten().tolist() for each in found)
    return relative, absolute


def _adaptive(
    tableau: ButcherTableau,
    rtol: list[float],
    atol: list[float],
    options: Mapping[str, Any],
    parts: tuple[int, ...],
    times: Sequence[float],
) -> AdaptiveSteps:
    o = dict(options)
    stops, _ = stops_of(o, times[0], direction(times), float) if "step_t" in o else ([], [])
    graph_option(o)
    c = controller_of(tableau.order, o)
    return AdaptiveSteps(
        rtol,
        atol,
        (float(c.order), c.safety, c.factor_min, c.factor_max, c.dt_min, c.dt_max),
        number_option(o, "first_step", 0.0) if "first_step" in o else 0.0,
        number_option(o, "max_num_steps", 2**31 - 1),
        number_option(o, "max_total_steps", math.inf),
        parts,
        stops,
    )


def given_steps(t: Tensor, times: list[float], options: Mapping[str, Any]) -> GridSteps:
    """Those of a grid.

    Args:
        times: the numbers of ``t``.

    Raises:
        NotServed: an option that the engine does not know.
        InvalidArgument: one that is wrong.
    """
    if options.get("interp", "linear") != "linear":
        raise NotServed("option 'interp'")
    step_size = options.get("step_size")
    points, sign = times, direction(times)
    number: Any = np.float32 if t.dtype == torch.float32 else float
    if step_size is not None:
        number_option(dict(options), "step_size", 0.0)
        points = grid_from_step_size(step_size, t, sign).tolist()
    output_step, output_x = [-1], [0.0]
    step = 0
    for time in times[1:]:
        while sign * points[step + 1] < sign * time:
            step += 1
        start, end = points[step], points[step + 1]
        output_step.append(step)
        output_x.append(1.0 if time == end else float((number(time) - number(start)) / (number(end) - number(start))))
    return GridSteps(points, output_step, output_x)
