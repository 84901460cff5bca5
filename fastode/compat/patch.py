"""Put fastode in torchdiffeq's place, and take it out again."""

from __future__ import annotations

import sys
from types import ModuleType, TracebackType
from typing import Any

_MISSING: Any = object()
#: the patch in force
_active: _Patch | None = None


class _Patch:
    """Every change that was made, to be undone in reverse."""

    def __init__(self) -> None:
        self._undo: list[tuple[dict[str, Any], str, Any]] = []

    def put(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        """``namespace[name] = value``, remembered."""
        self._undo.append((namespace, name, namespace.get(name, _MISSING)))
        namespace[name] = value

    def apply(self) -> None:
        """Make all changes."""
        from .modules import PACKAGE, modules

        stand_ins = modules()
        real = sys.modules.get(PACKAGE)
        if real is not None:
            self._rebind(real, stand_ins[PACKAGE])
            # `import torchdiffeq` elsewhere holds this very object; its inner modules stay as they are
            for name, value in vars(stand_ins[PACKAGE]).items():
                if name == "__version__" or not name.startswith("__"):
                    self.put(vars(real), name, value)
        for name, module in stand_ins.items():
            if name != PACKAGE or real is None:
                self.put(sys.modules, name, module)
        # what has no stand-in must not be found in the real package either
        for name in list(sys.modules):
            if name.startswith(PACKAGE + ".") and name not in stand_ins:
                self._undo.append((sys.modules, name, sys.modules.pop(name)))

    def _rebind(self, real: ModuleType, stand_in: ModuleType) -> None:
        """Names bound by ``from torchdiffeq import odeint`` before the patch."""
        replaced = {
            id(vars(real)[name]): value
            for name, value in vars(stand_in).items()
            if name in vars(real) and callable(value)
        }
        ours = (real.__name__, __name__.split(".")[0])
        for name, module in list(sys.modules.items()):
            if not isinstance(module, ModuleType) or name.split(".")[0] in ours:
                continue
            for key, value in list(vars(module).items()):
                if id(value) in replaced and key not in ("__builtins__",):
                    self.put(vars(module), key, replaced[id(value)])

    def revert(self) -> None:
        """Undo all changes."""
        from .registry import SOLVERS

        for namespace, name, before in reversed(self._undo):
            if before is _MISSING:
                namespace.pop(name, None)
            else:
                namespace[name] = before
        self._undo.clear()
        SOLVERS.reset()


class PatchHandle:
    """Leaving ``with`` undoes the patch if this call made it."""

    def __init__(self, made: _Patch | None) -> None:
        self._made = made

    def __enter__(self) -> PatchHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._made is not None and self._made is _active:
            unpatch_torchdiffeq()


def patch_torchdiffeq() -> PatchHandle:
    """From now on ``torchdiffeq`` is fastode, installed or not.

    ``import torchdiffeq``, ``from torchdiffeq import odeint`` and the parts of ``torchdiffeq._impl`` that published
    code uses resolve to fastode. Modules that imported torchdiffeq before, or one of its four functions by name, are
    switched too; what an object keeps elsewhere (a default argument, an attribute of an instance, a class derived from
    one of its solvers) stays torchdiffeq's. Call it first where you can.

    Returns:
        A context manager that undoes the patch. Patching twice is the same as patching once; an inner ``with`` leaves
        the patch of an outer one alone.

    Example:
        >>> with fastode.patch_torchdiffeq():
        ...     import some_package_on_torchdiffeq
    """
    global _active
    if _active is not None:
        return PatchHandle(None)
    made = _Patch()
    made.apply()
    _active = made
    return PatchHandle(made)


def unpatch_torchdiffeq() -> None:
    """Undo :func:`patch_torchdiffeq`: modules, attributes and names are what they were. Methods that were written into
    ``SOLVERS`` meanwhile are forgotten. Without a patch nothing happens."""
    global _active
    if _active is not None:
        _active.revert()
        _active = None
