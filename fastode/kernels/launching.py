"""The way of a launch through Triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

#: ``launch(kernel, grid, *args, **constants)``
Launch = Callable[..., object]


def front_door(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> Any:
    """Triton's own way: it looks at every argument to find, or compile, what it launches."""
    return kernel[grid](*args, **constants)


class Launches:
    """The launches that a solve repeats, found by any key."""

    def __init__(self) -> None:
        self._kept: dict[Any, Again] = {}

    def __call__(self, key: Any, *states: Tensor) -> Launch:
        """The launch called ``key``; ``states`` are those of its tensors that may be the user's own memory."""
        if any([y.data_ptr() % 16 for y in states]):
            return front_door
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = Again()
        return found


class Again:
    """A launch that a solve repeats: the same kernel, grid and numbers, on tensors of the same kinds.

    The first goes through Triton's front door, the others straight to what was compiled there, as long as that serves
    them: with the same constants, and slopes that are aligned to 16 bytes. They come from a field, that may return any
    part of a tensor; other tensors are a solve's own.
    """

    def __init__(self) -> None:
        self._compiled: Callable[..., object] | None = None
        self._constants: dict[str, Any] = {}
        self._values: list[Any] = []

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        aligned = all([t.data_ptr() % 16 == 0 for group in args if type(group) is tuple for t in group])
        if self._compiled is not None and aligned and constants == self._constants:
            self._compiled(*args, *self._values)
            return
        compiled = front_door(kernel, grid, *args, **constants)
        # the interpreter compiles nothing
        if compiled is not None and aligned:
            self._compiled = compiled[(*grid, 1, 1)[:3]]
            self._constants = constants
            self._values = [constants[p.name] for p in kernel.params if p.is_constexpr]
