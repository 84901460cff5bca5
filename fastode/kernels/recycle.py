"""Use a buffer again once nobody else holds it.

A field may keep the state it is handed: in a tape, in a list, as a view, or by calling ``requires_grad_()`` on it in
place. So a buffer is written again only when its Python object, its tensor and its storage have no other owner and it
takes no part in autograd. That costs 0.4 microseconds where a fresh ``empty_like`` costs 0.9, and a solve allocates
nothing per step. What one owner looks like is measured at import; without torch's counters nothing is recycled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from sys import getrefcount
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def _storage_owners(x: Tensor) -> int:
    # held in a variable, as in `_free`: up to torch 2.8 at least its object is an owner for as long as it lives
    storage = x.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata))


def _counts(x: Tensor) -> tuple[int, int, int]:
    return getrefcount(x), x._use_count(), _storage_owners(x)  # type: ignore[attr-defined]


def _calibrate() -> tuple[int, int, int] | None:
    try:
        return _counts([torch.empty(1)][0])
    except AttributeError:
        return None


_ALONE = _calibrate()


class Spares:
    """Buffers of one shape that may be free."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._spares: list[Tensor] = []

    def take(self) -> Tensor:
        """A buffer that nobody else holds, its content arbitrary."""
        spares = self._spares
        while spares:
            x = spares.pop()
            if _free(x):
                return x
        return torch.empty_like(self._like, memory_format=torch.contiguous_format, requires_grad=False)

    def give(self, x: Tensor) -> None:
        """Offer a buffer that :meth:`take` returned and the solver no longer needs."""
        if _ALONE is not None:
            self._spares.append(x)


def _free(x: Tensor) -> bool:
    # one reference more than at calibration: the caller's variable
    storage = x.untyped_storage()
    return (
        not x.requires_grad
        and getrefcount(x) <= _FREE_REFERENCES[0]
        and getrefcount(storage) <= _FREE_REFERENCES[1]
        and x._use_count() == _ALONE[1]  # type: ignore[attr-defined,index]
        and torch._C._storage_Use_Count(storage._cdata) == _ALONE[2]  # type: ignore[index]
    )


def _reference_counts_when_free() -> tuple[int, int]:
    """What ``_free`` sees for a buffer just popped by ``take``, and for the object of its storage."""

    def probe(x: Tensor) -> tuple[int, int]:
        storage = x.untyped_storage()
        return getrefcount(x), getrefcount(storage)

    spares = [torch.empty(1)]
    x = spares.pop()
    return probe(x)


_FREE_REFERENCES = _reference_counts_when_free()


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def scratch(n: int, dtype: torch.dtype) -> tuple[NDArray[np.floating], Tensor]:
    """The same memory [n] as an array and as a CPU tensor that outlives a solve: no mode that is on now (inference, a
    default device) marks it."""
    array = np.empty(n, _NUMPY[dtype])
    with torch.inference_mode(False):
        return array, torch.from_numpy(array)


class _Known(threading.local):
    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}


def per_thread(make: Callable[P, T]) -> Callable[P, T]:
    """``make``, called once for each thread and arguments."""
    known = _Known()

    def get(*args: P.args, **kwargs: P.kwargs) -> T:
        found: T | None = known.values.get(args)
        if found is None:
            found = known.values[args] = make(*args, **kwargs)
        return found

    return get


class TimeBuffer:
    """The times of a step's stages: one small buffer and its 0-dim views, used again while nobody keeps one."""

    def __init__(self, stages: int, dtype: torch.dtype) -> None:
        self._stages = stages
        self._dtype = dtype
        self._base: Tensor | None = None
        self._views: tuple[Tensor, ...] = ()
        self._alone: tuple[int, int, int] | None = None

    def take(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The buffer [S] and its S views."""
        base = self._base
        if base is None or not self._is_free():
            base = self._base = scratch(self._stages, self._dtype)[1]
            with torch.inference_mode(False), torch.no_grad():
                self._views = base.unbind(0)
            self._alone = None if _ALONE is None else self._state()
        return base, self._views

    def _state(self) -> tuple[int, int, int]:
        """Owners of the views' objects, of their tensors, and of the storage; a view in autograd counts double."""
        objects = tensors = 0
        for v in self._views:
            objects += getrefcount(v)
            tensors += v._use_count() + v.requires_grad  # type: ignore[attr-defined]
        return objects, tensors, torch._C._storage_Use_Count(self._base.untyped_storage()._cdata)  # type: ignore[union-attr]

    def _is_free(self) -> bool:
        return self._alone is not None and self._state() == self._alone


#: this thread's buffer, shared by all its solves: a solve inside a field finds it taken and makes a new one
time_buffer = per_thread(TimeBuffer)
