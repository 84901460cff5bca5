"""The lines of the table: one file for each idea, found by listing this folder; each exports ``cases``."""

from __future__ import annotations

import importlib
import pkgutil

from ..contest import Case

#: files whose cases run on any device; the others are about the kernels for CPUs
ON_ANY_DEVICE = ("per_sample", "steps")


def all_cases(tiny: bool = False, device: str = "cpu") -> list[Case]:
    """Every case, in the order of the files' names.

    Args:
        tiny: shrink every problem so that all run in seconds; for tests of the benchmark itself.
        device: where states and fields are; only the cases that run there.
    """
    found: list[Case] = []
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if info.name in ON_ANY_DEVICE:
            found += module.cases(tiny, device)
        elif device == "cpu":
            found += module.cases(tiny)
    return found
