"""Counts kernel launches and reads of tensors by the host: what a step costs beside its arithmetic.

On a GPU a read makes the host wait for everything before it. On CPU tensors, which stand for those of a GPU here, the
same calls are seen: some by what they dispatch to, the others, which dispatch to nothing on a CPU, by their name.
"""

from __future__ import annotations

import gc
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import torch
import triton
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.compiler import CompiledKernel
from triton.runtime.interpreter import InterpretedFunction

from .driver import Launcher


@contextmanager
def counting_launches() -> Iterator[Counter[str]]:
    """Counts launches of Triton kernels within the ``with`` block, by the name of the kernel.

    These are launches through ``kernel[grid](...)``, those of kept compiled kernels and of their kept launchers, and
    those in Triton's interpreter; with a real driver as with a stand-in. Replays of a captured graph are not seen.
    """
    counts: Counter[str] = Counter()
    launchers = {Launcher}
    # without the driver of a device only stand-ins can launch
    with suppress(RuntimeError):
        launchers.add(triton.runtime.driver.active.launcher_cls)
    interpreted = InterpretedFunction.run

    def run(self: Any, *args: Any, warmup: bool, **kwargs: Any) -> Any:
        if not warmup:
            counts[self.fn.__name__] += 1
        return interpreted(self, *args, warmup=warmup, **kwargs)

    patches = [mock.patch.object(cls, "__call__", _counted(cls.__call__, counts)) for cls in launchers]
    patches.append(mock.patch.object(InterpretedFunction, "run", run))
    for patch in patches:
        patch.start()
    try:
        yield counts
    finally:
        for patch in reversed(patches):
            patch.stop()


def _counted(call: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    """A launcher's ``__call__(x, y, z, stream, function, ...)`` that counts."""

    def counted(self: Any, x: int, y: int, z: int, stream: Any, function: Any, *rest: Any, **named: Any) -> Any:
        counts[_kernel_name(function)] += 1
        return call(self, x, y, z, stream, function, *rest, **named)

    return counted


def _kernel_name(function: Any) -> str:
    """The name of the kernel behind the handle that a driver gave to it; a stand-in's handle is the name."""
    if isinstance(function, str):
        return function
    kernels = (k for k in gc.get_objects() if isinstance(k, CompiledKernel))
    return next((str(k.name) for k in kernels if k.function == function), f"kernel at {function!r}")


_READS = {
    "aten::_local_scalar_dense": "the value of an element (item, bool, int, float)",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::equal": "equal",
    "aten::allclose": "allclose",
    "aten::bincount": "bincount",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::unique_consecutive": "unique_consecutive",
    "aten::repeat_interleave": "repeat_interleave",
}
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")
_METHODS = ("cpu", "tolist", "numpy", "__array__", "__dlpack__")
_WAITS = ((torch.cuda, "synchronize"), (torch.cuda.Event, "synchronize"), (torch.cuda.Stream, "synchronize"))


@contextmanager
def counting_synchronisations() -> Iterator[list[str]]:
    """Lists what makes the host wait for a device within the ``with`` block: what it was, and the line that asked.

    Seen are reads of elements, ``nonzero`` and its like, boolean masks as indices, copies from a device to the host,
    ``cpu()``, ``tolist()``, ``numpy()`` and ``torch.cuda.synchronize()``. Not seen are ``to("cpu")`` of a tensor that
    is on the CPU already, which may as well mean the device of another tensor, and native code that reads memory.
    """
    seen: list[str] = []
    patches = []
    for owner, name in _WAITS:
        patches.append(mock.patch.object(owner, name, _noted(getattr(owner, name), name, seen)))
    for patch in patches:
        patch.start()
    try:
        with _Methods(seen) as methods, _Operators(seen, methods):
            yield seen
    finally:
        for patch in reversed(patches):
            patch.stop()


def _noted(function: Callable[..., Any], name: str, seen: list[str]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(f"{name}{_asked_at()}")
        return function(*args, **kwargs)

    return noted


def _asked_at() -> str:
    """Where the call came from: the innermost line that is neither torch's nor this module's."""
    own = (__file__, torch.__file__.removesuffix("__init__.py"), sys.modules["contextlib"].__file__ or "")
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(own):
            return f" at {frame.filename}:{frame.lineno}"
    return ""


class _Methods(TorchFunctionMode):
    """Sees methods of tensors that dispatch to nothing on a CPU."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen
        self.within = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in _METHODS or getattr(torch.Tensor, name, None) is not func:
            return func(*args, **(kwargs or {}))
        self.seen.append(f"{name}{_asked_at()}")
        # what it dispatches to is the same read
        self.within += 1
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.within -= 1


class _Operators(TorchDispatchMode):
    """Sees operators whose result the host needs before it can go on."""

    def __init__(self, seen: list[str], methods: _Methods) -> None:
        super().__init__()
        self.seen = seen
        self.methods = methods

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        what = None if self.methods.within else _read(func.name().split(".")[0], args, kwargs)
        if what is not None:
            self.seen.append(f"{what}{_asked_at()}")
        return func(*args, **kwargs)


def _read(name: str, args: Any, kwargs: Any) -> str | None:
    if name in _READS:
        return _READS[name]
    if name in _INDEXING:
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
        return "a boolean mask as an index" if masks else None
    if name in _COPIES:
        # copy_ writes into its first argument; the others make a tensor where they are told to
        source = args[1] if name == "aten::copy_" else args[0]
        to = args[0].device if name == "aten::copy_" else kwargs.get("device") or source.device
        return "a copy to the host" if torch.device(to).type == "cpu" and source.device.type != "cpu" else None
    return None
