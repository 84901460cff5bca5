"""Compiled fields: a function of torch that solvers run as native code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CannotCompile, InvalidArgument, UnsupportedInput
from ..field import is_per_row
from ..options import CALLBACKS
from .divergence import is_closed_form, with_exact_divergence, with_hutchinson_divergence
from .engine import Lowered
from .trace import Traced, trace

_CALLBACKS = frozenset(CALLBACKS)


class Native:
    """A traced field in the forms that the engine runs.

    Attributes:
        traced: program and constants.
        lowered: the program as instructions.
        per_row: which extra arguments have an entry for each row.
    """

    def __init__(self, traced: Traced, per_row: tuple[bool, ...], shared_time: bool = True) -> None:
        self.traced = traced
        shapes = tuple(tuple(s) for s in traced.constants.shapes)
        self.lowered = Lowered(traced.program, shapes, shared_time)
        self.per_row = per_row
        self._leaf_shapes = [leaf.shape for leaf in traced.constants.leaves()]

    @cached_property
    def has_closed_form(self) -> bool:
        """Whether the exact divergence needs no tangents."""
        return is_closed_form(self.traced.program)

    @property
    def fits(self) -> bool:
        """Whether the field's tensors have the shapes that they had; a parameter may have been replaced."""
        return [leaf.shape for leaf in self.traced.constants.leaves()] == self._leaf_shapes

    def constants(self, args: tuple[Any, ...], dtype: torch.dtype) -> list[Tensor]:
        """The constants as the engine reads them: contiguous, of the state's dtype."""
        values = self.traced.constants.values(args)
        return [c if c.dtype is dtype and c.is_contiguous() else c.to(dtype).contiguous() for c in values]


class CompiledField(nn.Module):
    """``func`` as a field that solvers run natively; called, it is ``func``.

    It is traced when a solve first sees a state of some shape and dtype. Parameters stay those of ``func``: an
    optimiser's step is seen by the next solve. Made by :func:`fastode.compile`.

    Attributes:
        func: the function.
        memory: for the states that the gradient of a solve keeps, in bytes; None for one state a step.
    """

    def __init__(self, func: Callable[..., Any], memory: int | None = None) -> None:
        super().__init__()
        self.func = func
        self.memory = memory
        self._callbacks = any(hasattr(type(func), name) for name in CALLBACKS)
        self._natives: dict[Any, Native | CannotCompile] = {}

    def forward(self, t: Tensor, y: Any, *args: Any) -> Any:
        """``func(t, y, *args)``, by torch."""
        return self.func(t, y, *args)

    @property
    def has_callbacks(self) -> bool:
        """Whether the function wants to be told of steps, as torchdiffeq does by attributes."""
        return self._callbacks or not _CALLBACKS.isdisjoint(getattr(self.func, "__dict__", ()))

    def extra_repr(self) -> str:
        """Shown by ``print(field)``."""
        return "" if isinstance(self.func, nn.Module) else f"func={self.func!r}"

    def __getstate__(self) -> dict[str, Any]:
        # programs hold native objects and the tensors of this very function: a copy is traced again
        return {**super().__getstate__(), "_natives": {}}

    def native(
        self,
        y: Tensor,
        args: tuple[Any, ...] = (),
        batched: bool = True,
        time_per_row: bool = False,
        divergence: str | None = None,
    ) -> Native:
        """The traced field for states like ``y``.

        Args:
            y: [rows, ...] if ``batched``, else the state of one row.
            args: extra arguments; tensors with an entry for each row are per-row arguments.
            divergence: ``"exact"`` or ``"hutchinson"``: as one more feature of the value; the noise of the latter is
                one more per-row argument.

        Raises:
            CannotCompile: there is no program for this function; said again without another trace.
        """
        shape = tuple(y.shape[1:]) if batched else tuple(y.shape)
        per_row = tuple([batched and is_per_row(a, y.shape[0]) for a in args]) if args else ()
        key = (shape, y.dtype, batched, time_per_row, per_row, divergence, _key_of(args, per_row), self._mode())
        found = self._natives.get(key)
        if found is None or (isinstance(found, Native) and not found.fits):
            try:
                traced = trace(
                    self.func,
                    y_shape=shape,
                    args=args,
                    per_row=[i for i, is_row in enumerate(per_row) if is_row],
                    batched=batched,
                    time_per_row=time_per_row,
                    dtype=y.dtype,
                )
                found = Native(_with_divergence(traced, divergence), per_row, not time_per_row)
            except CannotCompile as reason:
                found = reason
            self._natives[key] = found
        if isinstance(found, CannotCompile):
            raise found
        return found

    def has_closed_form(self, y: Tensor) -> bool:
        """Whether the exact divergence at states like ``y`` needs no tangents; True if not compiled."""
        try:
            return self.native(y).has_closed_form
        except CannotCompile:
            return True

    def _mode(self) -> bool:
        return self.func.training if isinstance(self.func, nn.Module) else False


def compile(func: Callable[..., Any], *, memory: int | None = None) -> CompiledField:
    """``func(t, y, *args)`` as a field that is solved in native code.

    ``odeint``, ``odeint_adjoint`` and the layers of :mod:`fastode.nn` recognise the result. On the CPU, in float32 and
    float64, a solve by an explicit method is then one native call, and its gradient another: the exact gradient of the
    computed solution. What the native engine does not serve (events, custom norms, ...) takes the step loop, and
    :attr:`fastode.SolveStats.reason` says why.

    Args:
        func: a module or function; ``y`` is ``[rows, ...]`` and no row may depend on another. See
            :func:`fastode.explain` for what it becomes, or why it cannot be compiled.
        memory: bytes for the states that the gradient of ``odeint`` keeps. Where one state a step would need more,
            every second is kept, or every fourth, ..., and the steps between are taken again on the way back.

    Raises:
        UnsupportedInput: ``func`` cannot be called.
        InvalidArgument: ``memory`` is not positive.

    Example:
        >>> field = fastode.compile(net)
        >>> y = fastode.odeint(field, y0, t)
    """
    if memory is not None and not memory > 0:
        raise InvalidArgument(f"`memory` must be a positive number of bytes, or None, but is {memory!r}")
    if isinstance(func, CompiledField):
        return func if memory in (None, func.memory) else CompiledField(func.func, memory)
    if not callable(func):
        raise UnsupportedInput(f"`func` must be callable as func(t, y), but is a {type(func).__name__}")
    return CompiledField(func, memory)


def _with_divergence(traced: Traced, divergence: str | None) -> Traced:
    if divergence == "exact":
        return replace(traced, program=with_exact_divergence(traced.program, traced.constants))
    if divergence == "hutchinson":
        return replace(traced, program=with_hutchinson_divergence(traced.program))
    return traced


def _key_of(args: tuple[Any, ...], per_row: tuple[bool, ...]) -> tuple[Any, ...]:
    """What a trace depends on in the extra arguments."""
    parts: list[Any] = []
    for arg, is_row in zip(args, per_row, strict=True):
        if isinstance(arg, Tensor):
            parts.append((tuple(arg.shape[1:]) if is_row else tuple(arg.shape), arg.dtype))
        else:
            try:
                hash(arg)
            except TypeError:
                raise InvalidArgument(
                    f"a compiled field takes tensors and hashable objects as extra arguments, not a "
                    f"{type(arg).__name__}; pass its numbers as a tensor"
                ) from None
            parts.append(arg)
    return tuple(parts)
