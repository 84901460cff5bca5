"""The lines of the table: one file for each idea, found by listing this folder; each exports ``cases(tiny)``."""

from __future__ import annotations

import importlib
import pkgutil

from ..contest import Case


def all_cases(tiny: bool = False) -> list[Case]:
    """Every case, in the order of the files' names.

    Args:
        tiny: shrink every problem so that all run in seconds; for tests of the benchmark itself.
    """
    found: list[Case] = []
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name):
        found += importlib.import_module(f"{__name__}.{info.name}").cases(tiny)
    return found
