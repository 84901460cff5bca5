"""Compiled fields: a function of torch that solvers run as native code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..errors import CannotCompile, InvalidArgument, UnsupportedInput
from ..field import is_per_row
from ..options import CALLBACKS
from .divergence import is_closed_form, with_exact_divergence, with_hutchinson_divergence
from .engine import Lowered
from .gpu.settings import PRECISIONS
from .packing import Packed, Packing
from .places import Places
from .trace import FieldFails, Traced, trace

if TYPE_CHECKING:
    from .repeat import Repeat


class TensorsChanged(CannotCompile):
    """The field's tensors are not what they were when it was traced."""


class Native:
    """A traced field in the forms that the engine runs.

    Attributes:
        traced: program and constants.
        lowered: the program as instructions.
        per_row: which extra arguments have an entry for each row.
        shapes: of the constants.
    """

    def __init__(self, traced: Traced, per_row: tuple[bool, ...], shared_time: bool, device: torch.device) -> None:
        self.traced = traced
        shapes = tuple(tuple(s) for s in traced.constants.shapes)
        self.lowered = Lowered(traced.program, shapes, shared_time)
        self.per_row = per_row
        self._held = [(place, place.get().shape[1:]) for place in traced.held]
        self.shapes = [torch.Size(s) for s in shapes]
        self.device = device

    @cached_property
    def has_closed_form(self) -> bool:
        """Whether the exact divergence needs no tangents."""
        return is_closed_form(self.traced.program)

    def arguments(self, args: tuple[Any, ...], y: Tensor) -> list[Tensor]:
        """The per-row arguments as the engine reads them.

        Raises:
            TensorsChanged: a tensor of the field that has an entry for each row is gone, or has not as many as ``y``.
        """
        found = [dense(a) for a, is_row in zip(args, self.per_row, strict=True) if is_row] if args else []
        for place, shape in self._held:
            try:
                x = place.get()
                fits = x.shape == (len(y), *shape) and x.dtype is y.dtype and x.device == y.device
            except Exception as error:
                raise TensorsChanged(f"its tensors have changed: {type(error).__name__}: {error}") from error
            if not fits:
                raise TensorsChanged(f"its tensor {place.name} has changed, or has no entry for each row")
            found.append(dense(x))
        return found

    def constants(self, args: tuple[Any, ...], dtype: torch.dtype) -> list[Tensor]:
        """The constants as the engine reads them: contiguous, of the state's dtype.

        Raises:
            TensorsChanged: a tensor of the field is gone, or has another shape or device than when it was traced.
        """
        try:
            values = self.traced.constants.values(args)
        except Exception as error:
            raise TensorsChanged(f"its tensors have changed: {type(error).__name__}: {error}") from error
        found = []
        for c, shape in zip(values, self.shapes, strict=True):
            if c is None or c.shape != shape or c.device != self.device:
                raise TensorsChanged("its tensors have changed their shapes or their device")
            plain = c.dtype is dtype and c.is_contiguous() and not c.is_neg()
            found.append(c if plain else c.to(dtype).resolve_neg().contiguous())
        return found


def dense(x: Tensor) -> Tensor:
    """``x`` as its memory is read: contiguous, its negation (of a view of a conjugate) done."""
    return x if x.is_contiguous() and not x.is_neg() else x.resolve_neg().contiguous()


class _Reach:
    """What is within reach of a function and makes its trace another one.

    Attributes:
        func: the function.
        modules: those that it may call.
        contents: numbers, modules, functions and other objects that it may read.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        places = Places(func)
        self.modules, self.contents = places.modules(), places.contents()
        self._children = self._found_children()

    def modes(self) -> tuple[bool, ...]:
        """Which of them are in training mode."""
        return tuple([m.training for m in self.modules])

    def is_the_same(self) -> bool:
        """Whether no module has got another child, and nothing that is read has become another."""
        return self._found_children() == self._children and all(c.is_still_there() for c in self.contents)

    def settle(self) -> None:
        """The function was called: what has changed since counts its calls, or keeps something of the last one."""
        self.contents = [c for c in self.contents if c.is_still_there()]

    def _found_children(self) -> list[list[nn.Module | None]]:
        return [list(m._modules.values()) for m in self.modules]


class CompiledField(nn.Module):
    """``func`` as a field that solvers run natively; called, it is ``func``.

    It is traced when a solve first sees a state of some shape and dtype. Parameters stay those of ``func``: an
    optimiser's step is seen by the next solve. Attributes of ``func`` are read and set through it, its methods called.
    Made by :func:`fastode.compile`.

    Attributes:
        func: the function.
        memory: for the states and products that the gradient of a solve keeps, in bytes; None for one state a step, and
            products up to 1 GiB.
        precision: of float32 products with matrices on a GPU.
        parts: where each part of a state ends, in features, if it has several.
        reach: what its programs depend on; there is one once it is traced.
        draws_first: whether its first call draws the random numbers that it keeps for the others; None if not known.
    """

    def __init__(self, func: Callable[..., Any], memory: int | None = None, precision: str = "ieee") -> None:
        super().__init__()
        self.func = func
        self.memory = memory
        self.precision = precision
        self.parts: tuple[int, ...] = ()
        self._packed: dict[Packing, CompiledField] = {}
        self.reach: _Reach | None = None
        self.draws_first: bool | None = None
        #: for a solve like the last one; and what the last one was that had none
        self.repeat: Repeat | None = None
        self.last_request: tuple[Any, ...] = ()
        self._class_calls_back = any(hasattr(type(func), c) for c in CALLBACKS)
        # the last: from now on other attributes are the function's
        self._natives: dict[Any, Native | CannotCompile] = {}

    def forward(self, t: Tensor, y: Any, *args: Any) -> Any:
        """``func(t, y, *args)``, by torch."""
        return self.func(t, y, *args)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "_modules" not in self.__dict__:  # copying and pickling ask for some
                raise
        return getattr(self._function(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if name in own or name == "func" or "_natives" not in own or not hasattr(self._function(), name):
            super().__setattr__(name, value)
        else:
            setattr(self._function(), name, value)

    def extra_repr(self) -> str:
        """Shown by ``print(field)``."""
        return "" if isinstance(self.func, nn.Module) else f"func={self.func!r}"

    def __getstate__(self) -> dict[str, Any]:
        # programs hold native objects and the tensors of this very function: a copy is traced again
        nothing: dict[str, Any] = {"_natives": {}, "_packed": {}, "reach": None}
        nothing |= {"repeat": None, "last_request": ()}
        return {**super().__getstate__(), **nothing}

    def forget(self) -> None:
        """Trace the function again when the next solve needs it."""
        self._natives.clear()
        self.reach = self.repeat = None

    @property
    def calls_back(self) -> bool:
        """Whether the function, or this field, has a callback for the steps of a solve."""
        func = self._function()
        if isinstance(func, nn.Module):
            found = self._class_calls_back or not (_disjoint(vars(func)) and _disjoint(func._modules))
        else:
            found = any(getattr(func, c, None) for c in CALLBACKS)
        return found or not _disjoint(vars(self))

    @property
    def uncompiled(self) -> Callable[..., Any]:
        """What the step loop calls: the function, or this field if callbacks were given to it."""
        return self.func if _disjoint(vars(self)) else self

    def _function(self) -> Callable[..., Any]:
        """``self.func``, without the detour that a module's attributes take."""
        own = self.__dict__
        return own["func"] if "func" in own else self._modules["func"]  # type: ignore[return-value]

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
        key: tuple[Any, ...] = (
            shape,
            y.dtype,
            y.device,
            batched,
            time_per_row,
            per_row,
            divergence,
            _key_of(args, per_row),
            self._mode(),
        )
        rows = y.shape[0] if batched else 1
        # a field that holds tensors with an entry for each row may fail for other batches only
        found = self._natives.get(key) or self._natives.get((key, rows))
        if found is None:
            try:
                traced = trace(
                    self.func,
                    y_shape=shape,
                    args=args,
                    per_row=[i for i, is_row in enumerate(per_row) if is_row],
                    batched=batched,
                    time_per_row=time_per_row,
                    dtype=y.dtype,
                    device=y.device,
                    rows=0 if time_per_row else rows,
                )
                found = Native(_with_divergence(traced, divergence), per_row, not time_per_row, y.device)
            except FieldFails as reason:
                found, key = reason, (key, rows)
            except CannotCompile as reason:
                found = reason
            self._natives[key] = found
            if self.reach is not None:
                self.reach.settle()
        if isinstance(found, CannotCompile):
            raise found
        return found

    def packed(self, packing: Packing) -> CompiledField:
        """The same field, of states of several parts packed into one tensor."""
        func = self._function()
        found = self._packed.get(packing)
        if found is None or cast("Packed", found.func).func is not func:
            found = self._packed[packing] = CompiledField(Packed(func, packing))
            found.parts = packing.ends
        if found.memory != self.memory or found.precision != self.precision:
            found.memory, found.precision = self.memory, self.precision
        return found

    def is_traced(self, y: Tensor, args: tuple[Any, ...] = ()) -> bool:
        """Whether there is a program for states like ``y`` ([rows, ...], or one row of up to one axis)."""
        try:
            self.native(y, args, batched=y.ndim > 1)
        except (CannotCompile, InvalidArgument):
            return False
        return True

    def has_closed_form(self, y: Tensor) -> bool:
        """Whether the exact divergence at states like ``y`` needs no tangents; True if not compiled."""
        try:
            return self.native(y).has_closed_form
        except CannotCompile:
            return True

    def _mode(self) -> tuple[bool, ...]:
        """The training flags of all modules; programs made before something that they read was replaced are dropped."""
        reach, func = self.reach, self._function()
        if reach is None or reach.func is not func or not reach.is_the_same():
            self.forget()
            reach = self.reach = _Reach(func)
        return reach.modes()


def compile(func: Callable[..., Any], *, memory: int | None = None, precision: str = "ieee") -> CompiledField:
    """``func(t, y, *args)`` as a field that is solved in native code.

    ``odeint``, ``odeint_adjoint`` and the layers of :mod:`fastode.nn` recognise the result. On the CPU, in float32 and
    float64, a solve by an explicit method is then one native call, and its gradient another: the exact gradient of the
    computed solution. What the native engine does not serve (events, custom norms, ...) takes the step loop, and
    :attr:`fastode.SolveStats.reason` says why.

    Args:
        func: a module or function; ``y`` is ``[rows, ...]`` and no row may depend on another. See
            :func:`fastode.explain` for what it becomes, or why it cannot be compiled.
        memory: bytes for what a solve keeps for its gradient. Where one state a step would need more, every second is
            kept, or every fourth, ..., and the steps between are taken again on the way back; in
            :func:`fastode.solve` each row has its share. What is left goes to the products of wide layers, which need
            not be made again then. By default one state a step, and products while those of all solves that wait for
            their gradient take 1 GiB at most. On the CPU only.
        precision: of float32 products with matrices on a GPU: ``"ieee"``, ``"tf32x3"`` (three products on tensor cores,
            nearly as exact) or ``"tf32"`` (relative error 5e-4).

    Raises:
        UnsupportedInput: ``func`` cannot be called.
        InvalidArgument: ``memory`` is not positive, or ``precision`` is not known.

    Example:
        >>> field = fastode.compile(net)
        >>> y = fastode.odeint(field, y0, t)
    """
    if memory is not None and not memory > 0:
        raise InvalidArgument(f"`memory` must be a positive number of bytes, or None, but is {memory!r}")
    if precision not in PRECISIONS:
        raise InvalidArgument(f"`precision={precision!r}` is not known. Known: {', '.join(PRECISIONS)}")
    if isinstance(func, CompiledField):
        same = memory in (None, func.memory) and precision in ("ieee", func.precision)
        return func if same else CompiledField(func.func, memory, precision)
    if not callable(func):
        raise UnsupportedInput(f"`func` must be callable as func(t, y), but is a {type(func).__name__}")
    return CompiledField(func, memory, precision)


def _disjoint(held: dict[str, Any]) -> bool:
    """Whether there is no callback among an object's attributes."""
    return held.keys().isdisjoint(CALLBACKS)


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
