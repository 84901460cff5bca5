"""How a module solves its equation, and how it is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._odeint import odeint, odeint_adjoint
from ..compiler.compiled import CompiledField
from ..errors import InvalidArgument, did_you_mean
from ..stats import last_stats

GRADIENTS = ("autograd", "discrete", "backsolve")


@dataclass(frozen=True)
class SolverSettings:
    """The numerical part of a module: everything that :func:`fastode.odeint` needs besides the problem.

    Attributes:
        method: name of the method; see :func:`fastode.odeint`.
        rtol, atol: a step is accepted when ``rms(err / (atol + rtol max(|y0|, |y1|))) <= 1``.
        options: options of the method.
        gradient: ``"autograd"`` (a tape through every stage), ``"discrete"`` (the same gradient, one stored
            state a step) or ``"backsolve"`` (the continuous adjoint: constant memory, approximate).
        adjoint_options: further keywords of :func:`fastode.odeint_adjoint`, such as ``adjoint_rtol``.

    Raises:
        InvalidArgument: unknown ``gradient``, or ``adjoint_options`` without an adjoint.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    options: dict[str, Any] | None = None
    gradient: str = "discrete"
    adjoint_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gradient not in GRADIENTS:
            raise InvalidArgument(
                f"`gradient={self.gradient!r}` is not known.{did_you_mean(self.gradient, list(GRADIENTS))} "
                f"Known: {', '.join(GRADIENTS)}"
            )
        if self.adjoint_options and self.gradient != "backsolve":
            raise InvalidArgument(
                f"`adjoint_options={self.adjoint_options!r}` needs `gradient='backsolve'`, not "
                f"{self.gradient!r}; the other gradients have no solve of their own to set"
            )

    @property
    def may_be_native(self) -> bool:
        """Whether a native solve gives what is asked for: gradients that are exact, once."""
        return self.gradient == "discrete" or not torch.is_grad_enabled()

    def solve(self, func: Callable[..., Any], y0: Any, t: Tensor, parameters: tuple[nn.Parameter, ...]) -> Any:
        """The states at ``t``: ``[T, ...]``, or a tuple of such.

        Args:
            func: ``func(t, y)``.
            y0: the state at ``t[0]``, a tensor or a tuple of tensors.
            t: ``[T]`` strictly monotonic; times.
            parameters: what ``func`` depends on and gradients are wanted for.
        """
        common: dict[str, Any] = {
            "rtol": self.rtol,
            "atol": self.atol,
            "method": self.method,
            "options": self.options,
        }
        if self.gradient == "autograd" or not torch.is_grad_enabled():
            return odeint(func, y0, t, **common)
        return odeint_adjoint(
            func, y0, t, **common, gradient=self.gradient, adjoint_params=parameters, **self.adjoint_options
        )


class Compiled:
    """A module's field in compiled form. It is no part of the module: copies and checkpoints do not see it.

    Attributes:
        wanted: whether solves may be native at all.
        served: the engine of the last solve, and why it was not a faster one.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.served = ("", "")
        self._field: CompiledField | None = None

    def field(self, func: Callable[..., Any]) -> CompiledField:
        """The compiled form of ``func``."""
        if isinstance(func, CompiledField):
            return func
        if self._field is None or self._field.func is not func:
            self._field = CompiledField(func)
        return self._field

    def note(self) -> None:
        """Remember what served the solve that just ended."""
        if (stats := last_stats()) is not None:
            self.served = (stats.engine, stats.reason)

    def __reduce__(self) -> tuple[type[Compiled], tuple[bool]]:
        return Compiled, (self.wanted,)


def trained_parameters(func: Any) -> tuple[nn.Parameter, ...]:
    """The parameters of ``func`` that require grad; none for a plain function."""
    return tuple(p for p in func.parameters() if p.requires_grad) if isinstance(func, nn.Module) else ()


def check_span(t_span: tuple[float, float]) -> tuple[float, float]:
    """``t_span`` as two different floats.

    Raises:
        InvalidArgument: anything else.
    """
    values = tuple(float(t) for t in t_span)
    if len(values) != 2 or values[0] == values[1]:
        raise InvalidArgument(f"`t_span={t_span!r}` must be two different times; for example `t_span=(0.0, 1.0)`")
    return values[0], values[1]
