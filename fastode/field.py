"""The user's function as the solver sees it: parts in, parts out, checked and counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import FieldError
from .stats import SolveStats
from .tree import Parts, flatten, unflatten


class Field:
    """Calls ``func(t, y, *args)`` and returns its value as contiguous parts of the state's shapes and dtype.

    Args:
        func: the user's vector field.
        args: extra positional arguments for it.
        y0: the initial state, which fixes shapes, dtype and device.
        spec: structure of the state (``None`` for a tensor).
        stats: where evaluations are counted.

    Raises (on call):
        FieldError: the value is not a tensor (or the same structure of tensors) that fits the state.
    """

    def __init__(
        self, func: Callable[..., Any], args: tuple[Any, ...], y0: Parts, spec: Any, stats: SolveStats
    ) -> None:
        self.func = func
        self.args = args
        self.spec = spec
        self.flat = spec is not None and spec[1] is None and not any(spec[2])
        self.stats = stats
        self.shapes = [p.shape for p in y0]
        self.dtype = y0[0].dtype
        self.device = y0[0].device
        self.on_cpu = y0[0].is_cpu
        #: set once a returned tensor requires grad while gradients are enabled
        self.traced = False
        #: some functions write every value into the same buffer; found out by the first two evaluations
        self.copies = False

    def __call__(self, t: Tensor, y: Parts) -> Parts:
        self.stats.n_func += 1
        if self.spec is None:
            f = self.func(t, y[0], *self.args)
            if (
                f.__class__ is Tensor
                and f.dtype is self.dtype
                and f.is_cpu is self.on_cpu  # kernels get its address
                and f.shape == self.shapes[0]
                and f.is_contiguous()
                and not f.is_neg()
            ):
                if f.requires_grad and torch.is_grad_enabled():
                    self.traced = True
                return (f.clone(),) if self.copies else (f,)
            parts: Parts = (self._fit(f, 0),)
        else:
            value = self.func(t, unflatten(self.spec, y), *self.args)
            if self.flat and isinstance(value, tuple) and len(value) == len(y):
                leaves = value
            else:
                leaves = flatten(_in_order(self.spec, value), "func(t, y)")[0]
            if len(leaves) != len(y):
                raise FieldError(
                    f"func(t, y) returned {len(leaves)} tensors, but the state `y0` has {len(y)}; "
                    "return one derivative for each"
                )
            parts = tuple([self._fit(f, i) for i, f in enumerate(leaves)])
        if torch.is_grad_enabled() and any(p.requires_grad for p in parts):
            self.traced = True
        return tuple([p.clone() for p in parts]) if self.copies else parts

    def take_rows(self, rows: Tensor, y0: Parts) -> Field:
        """The field of some rows: arguments with an entry for each row are cut like the state."""
        field = Field(self.func, self.args_of(rows), y0, self.spec, self.stats)
        field.copies = self.copies
        field.per_row = self.per_row
        return field

    def args_of(self, rows: Tensor) -> tuple[Any, ...]:
        """The extra arguments for some rows."""
        return tuple([a[rows] if is_row else a for a, is_row in zip(self.args, self.per_row, strict=True)])

    @cached_property
    def per_row(self) -> tuple[bool, ...]:
        """Which arguments have an entry for each row: of the whole batch, as some of its rows may be as many as the
        elements of another argument."""
        return tuple([is_per_row(a, self.shapes[0][0]) for a in self.args])

    def _fit(self, f: Any, i: int) -> Tensor:
        """``f`` as a contiguous tensor of part ``i``'s shape and dtype."""
        shape = self.shapes[i]
        where = "func(t, y)" if self.spec is None else f"part {i} of func(t, y)"
        if not isinstance(f, Tensor):
            raise FieldError(f"{where} returned a {type(f).__name__}; return a torch.Tensor of shape {tuple(shape)}")
        if f.device != self.device:
            raise FieldError(f"{where} is on {f.device}, but the state is on {self.device}; return it there")
        if f.layout is not torch.strided:
            raise FieldError(f"{where} is not dense ({f.layout}); return a dense tensor: use .to_dense()")
        if f.dtype != self.dtype:
            if f.is_complex() and not self.dtype.is_complex:
                raise FieldError(f"{where} is complex ({f.dtype}), but the state is real ({self.dtype})")
            f = f.to(self.dtype)
        if f.shape != shape:
            try:
                f = f.expand(shape)
            except RuntimeError:
                raise FieldError(
                    f"{where} has shape {tuple(f.shape)}, but the state has shape {tuple(shape)}; "
                    "return one derivative for each element of the state"
                ) from None
        fitted: Tensor = f.resolve_neg().contiguous()
        return fitted

    def detect_shared_buffer(self, first: Parts, second: Parts) -> None:
        """Copy values from now on if two evaluations came back in the same memory."""
        if not self.copies and any(_same_memory(a, b) for a, b in zip(first, second, strict=True)):
            self.copies = True


def is_per_row(arg: Any, n: int) -> bool:
    """Whether an extra argument has an entry for each of ``n`` rows: a tensor whose first axis is as long."""
    return isinstance(arg, Tensor) and arg.ndim > 0 and arg.shape[0] == n


def _in_order(spec: Any, value: Any) -> Any:
    """``value`` with the items of its dictionaries in the order that the state has them."""
    if spec is None:
        return value
    _, keys, children = spec
    if keys is not None and isinstance(value, dict):
        if value.keys() != set(keys):
            raise FieldError(f"func(t, y) returned the keys {list(value)}, but the state has {list(keys)}")
        return {k: _in_order(child, value[k]) for k, child in zip(keys, children, strict=True)}
    if keys is None and isinstance(value, tuple | list) and len(value) == len(children):
        return [_in_order(child, v) for child, v in zip(children, value, strict=True)]
    return value


def _same_memory(a: Tensor, b: Tensor) -> bool:
    try:
        return a.numel() > 0 and a.data_ptr() == b.data_ptr()
    except RuntimeError:  # tensors of a transform (vmap, fake) have no memory to share
        return False
