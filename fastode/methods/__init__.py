"""The registry of methods: every file of this folder that exports ``METHOD`` (its name is the file's) or ``METHODS``.

A method is a :class:`~fastode.tableau.ButcherTableau` (explicit; adaptive if it has an error estimate) or a
:class:`GridMethod` (everything else that steps along a grid). ``scipy_solver`` stands alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, did_you_mean
from ..tableau import ButcherTableau

if TYPE_CHECKING:
    from ..fixed_grid import GridStepper
    from ..kernels import Engine
    from ..problem import Problem

#: torchdiffeq's spelling of a method that has another name here
ALIASES = {"fixed_adams": "implicit_adams"}


@dataclass(frozen=True)
class GridMethod:
    """A fixed-grid method that is not an explicit tableau.

    Args:
        order: order of convergence at default options.
        make: builds the stepper of one solve from the problem, the engine and the method's own options.
        options: names of those options; None if the method checks them itself.
        solver: the class name torchdiffeq uses in its warnings.
    """

    order: int
    make: Callable[[Problem, Engine, dict[str, Any]], GridStepper]
    options: frozenset[str] | None = frozenset()
    solver: str = ""


@dataclass(frozen=True)
class ExternalMethod:
    """A method that another library integrates: ``solve(problem, options)`` returns the states at all times."""

    solve: Callable[[Problem, dict[str, Any]], list[Any]]
    options: frozenset[str] | None = frozenset()
    solver: str = ""


Method = ButcherTableau | GridMethod | ExternalMethod


#: methods added by :func:`register`
_registered: dict[str, Method] = {}


def register(name: str, method: Method) -> None:
    """Make ``method`` known as ``name``, in front of a built-in one of that name."""
    _registered[name] = method


def unregister(name: str) -> None:
    """Undo :func:`register`."""
    _registered.pop(name, None)


def methods() -> dict[str, Method]:
    """Every method by name."""
    return {**_built_in(), **_registered}


@cache
def _built_in() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found.update(getattr(module, "METHODS", None) or {info.name: module.METHOD})
    for alias, name in ALIASES.items():
        found[alias] = found[name]
    return found


def lookup(name: Any) -> Method:
    """The method called ``name``.

    Raises:
        InvalidArgument: there is none (a ``ValueError``, as in torchdiffeq).
    """
    found = (_registered.get(name) or _built_in().get(name)) if isinstance(name, str) else None
    if found is None:
        known = methods()
        names = '{"' + '", "'.join(sorted(known)) + '"}'
        raise InvalidArgument(f'Invalid method "{name}". Must be one of {names}.{did_you_mean(str(name), list(known))}')
    return found
