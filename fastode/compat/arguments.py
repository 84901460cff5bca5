"""Checking and wrapping of a call's arguments, under the names that torchdiffeq's ``_impl.misc`` gives them.

fastode does not call these: they serve code that imports them. The convention is torchdiffeq's: one flat tensor for a
tuple state, time that increases, and a field that takes ``perturb=``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidArgument
from ..options import CALLBACKS
from ..perturb import Perturb
from ..problem import check_time, coerce_time
from .norms import _mixed_norm, _rms_norm

Function = Callable[..., Any]

_all_callback_names = list(CALLBACKS)
_all_adjoint_callback_names = [name + "_adjoint" for name in CALLBACKS]


def _null_callback(*args: Any, **kwargs: Any) -> None:
    """The callback of a field that has none."""


def _handle_unused_kwargs(solver: object, unused_kwargs: Mapping[str, Any]) -> None:
    """Warn of options that ``solver`` does not know."""
    if unused_kwargs:
        warnings.warn(f"{type(solver).__name__}: Unexpected arguments {dict(unused_kwargs)}", stacklevel=3)


def _assert_one_dimensional(name: str, t: Tensor) -> None:
    if t.ndim != 1:
        raise InvalidArgument(f"{name} must be one dimensional, but has shape {tuple(t.shape)}")


def _assert_floating(name: str, t: Tensor) -> None:
    if not t.is_floating_point():
        raise TypeError(f"`{name}` must be a floating point Tensor but is a {t.type()}")


def _assert_increasing(name: str, t: Tensor) -> None:
    if not bool((t[1:] > t[:-1]).all()):
        raise InvalidArgument(f"{name} must be strictly increasing or decreasing, but is {t.tolist()}")


def _check_timelike(name: str, timelike: Any, can_grad: bool) -> None:
    check_time(name, timelike, can_grad)


def _decreasing(t: Tensor) -> Tensor:
    return (t[1:] < t[:-1]).all()


class _StitchGradient(torch.autograd.Function):
    """The value of ``out`` with the gradient of ``x1``."""

    @staticmethod
    def forward(ctx: Any, x1: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
        return grad_out, None


def _nextafter(x1: Tensor, x2: Tensor) -> Tensor:
    """The neighbour of ``x1`` towards ``x2``; its gradient is the gradient of ``x1``."""
    with torch.no_grad():
        neighbour = torch.nextafter(x1, x2)
    out: Tensor = _StitchGradient.apply(x1, neighbour)
    return out


def _flat_to_shape(tensor: Tensor, length: Sequence[int], shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """Views ``[*length, *shape]`` of a tensor ``[*length, N]``, one for each of ``shapes``."""
    sizes = [shape.numel() for shape in shapes]
    pieces = torch.split(tensor[..., : sum(sizes)], sizes, dim=-1)
    return tuple([piece.view((*length, *shape)) for piece, shape in zip(pieces, shapes, strict=True)])


def _flatten(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([p.reshape(-1) for p in parts])


def _tuple_tol(name: str, tol: Any, shapes: Sequence[torch.Size]) -> Any:
    """One tolerance for each element of the flat state where one for each tensor was given."""
    if not hasattr(tol, "__iter__") or (isinstance(tol, Tensor) and tol.ndim == 0):
        return tol
    values = tuple(tol)
    if len(values) != len(shapes):
        raise InvalidArgument(f"If using tupled {name} it must have the same length as the tuple y0")
    return torch.cat([torch.as_tensor(v).expand(s.numel()) for v, s in zip(values, shapes, strict=True)])


def _flip_option(options: dict[str, Any], option_name: str) -> None:
    """Negate prescribed times."""
    if isinstance(options.get(option_name), Tensor):
        options[option_name] = -options[option_name]


class _TupleFunc(nn.Module):
    """A field of tuples as a field of one flat tensor."""

    def __init__(self, base_func: Function, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.base_func = base_func
        self.shapes = shapes

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return _flatten(self.base_func(t, _flat_to_shape(y, (), self.shapes)))


class _TupleInputOnlyFunc(_TupleFunc):
    """An event function of tuples as one of a flat tensor."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        value: Tensor = self.base_func(t, _flat_to_shape(y, (), self.shapes))
        return value


class _ReverseFunc(nn.Module):
    """``mul * base_func(-t, y)``."""

    def __init__(self, base_func: Function, mul: float = 1.0) -> None:
        super().__init__()
        self.base_func = base_func
        self.mul = mul

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        value: Tensor = self.mul * self.base_func(-t, y)
        return value


class _PerturbFunc(nn.Module):
    """A field evaluated at ``t``, or just before or after it in the precision of the state."""

    def __init__(self, base_func: Function) -> None:
        super().__init__()
        self.base_func = base_func

    def forward(self, t: Tensor, y: Tensor, *, perturb: Perturb = Perturb.NONE) -> Tensor:
        if not isinstance(perturb, Perturb):
            raise InvalidArgument(f"perturb argument must be of type Perturb enum, but is {perturb!r}")
        t = (t.real if t.is_complex() else t).to(y.real.dtype if y.is_complex() else y.dtype)
        if perturb is not Perturb.NONE:
            t = _nextafter(t, t + 1 if perturb is Perturb.NEXT else t - 1)
        value: Tensor = self.base_func(t, y)
        return value


def _check_inputs(
    func: Function,
    y0: Any,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: dict[str, Any] | None,
    event_fn: Function | None,
    SOLVERS: Mapping[str, Any],
) -> tuple[Any, ...]:
    """A call in torchdiffeq's inner convention.

    Returns:
        ``(shapes, func, y0, t, rtol, atol, method, options, event_fn, t_is_reversed)``.
    """
    from .stepping import combine_event_functions

    if event_fn is not None:
        if len(t) != 2:
            raise ValueError(f"We require len(t) == 2 when in event handling mode, but got len(t)={len(t)}.")
        event_fn = combine_event_functions(event_fn, t[0], y0)
    original = func
    options = dict(options or {})
    method = "dopri5" if method is None else method
    if method not in SOLVERS:
        names = '{"' + '", "'.join(SOLVERS) + '"}'
        raise ValueError(f'Invalid method "{method}". Must be one of {names}.')
    shapes = None
    if isinstance(y0, Tensor):
        options.setdefault("norm", _rms_norm)
    else:
        if not isinstance(y0, tuple):
            raise InvalidArgument("y0 must be either a torch.Tensor or a tuple")
        shapes = [p.shape for p in y0]
        rtol, atol = _tuple_tol("rtol", rtol, shapes), _tuple_tol("atol", atol, shapes)
        y0 = _flatten(y0)
        func = _TupleFunc(func, shapes)
        event_fn = None if event_fn is None else _TupleInputOnlyFunc(event_fn, shapes)
        norm, parts = options.get("norm", _mixed_norm), shapes
        options["norm"] = lambda flat: norm(_flat_to_shape(flat, (), parts))
    check_time("t", t)
    for name, tol in (("rtol", rtol), ("atol", atol)):
        if isinstance(tol, Tensor) and tol.requires_grad:
            raise InvalidArgument(f"{name} cannot require gradient")
    t = coerce_time(t, y0.device)
    reverse = len(t) > 1 and bool(t[0] > t[1])
    if reverse:
        t = -t
        func = _ReverseFunc(func, mul=-1.0)
        event_fn = None if event_fn is None else _ReverseFunc(event_fn)
        constructor = options.get("grid_constructor")
        if constructor is not None:
            options["grid_constructor"] = lambda func, y0, t: -constructor(func, y0, -t)
        _flip_option(options, "step_t")
        _flip_option(options, "jump_t")
    func = _PerturbFunc(func)
    refused = _attach_callbacks(func, original, shapes, reverse) - SOLVERS[method].valid_callbacks()
    if refused:
        warnings.warn(f"Solver '{method}' does not support callbacks {refused}", stacklevel=2)
    return shapes, func, y0, t, rtol, atol, method, options, event_fn, reverse


def _attach_callbacks(func: nn.Module, original: Function, shapes: Any, reverse: bool) -> set[str]:
    """Give ``func`` the callbacks of ``original`` for a flat state and increasing time; their names."""
    found = set()
    for name in _all_callback_names:
        callback = getattr(original, name, _null_callback)
        if callback is not _null_callback:
            found.add(name)

            def call(t0: Tensor, y0: Tensor, dt: Tensor, callback: Function = callback) -> Any:
                y = y0 if shapes is None else _flat_to_shape(y0, (), shapes)
                return callback(-t0 if reverse else t0, y, dt)

            setattr(func, name, call)
        else:
            setattr(func, name, _null_callback)
    for name in _all_adjoint_callback_names:
        if hasattr(original, name):
            setattr(func, name, getattr(original, name))
    return found
