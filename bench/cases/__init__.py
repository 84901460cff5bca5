"""The lines of the table: one file for each idea, found by listing this folder; each exports ``cases``."""

from __future__ import annotations

import importlib
import pkgutil

from ..contest import Case

#: files whose cases run on any device, those first of a GPU that say most; the others are about the kernels for CPUs
ON_ANY_DEVICE = (
    "device_counts",
    "forward",
    "compiled_forward",
    "training",
    "compiled_training",
    "cnf",
    "compiled_per_sample",
    "per_sample",
    "steps",
)


def all_cases(tiny: bool = False, device: str = "cpu") -> list[Case]:
    """Every case, in the order of the files' names, or on another device than the CPU in that of ``ON_ANY_DEVICE``.

    Args:
        tiny: shrink every problem so that all run in seconds; for tests of the benchmark itself.
        device: where states and fields are; only the cases that run there.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(__path__)) if device == "cpu" else ON_ANY_DEVICE
    found: list[Case] = []
    for name in names:
        module = importlib.import_module(f"{__name__}.{name}")
        found += module.cases(tiny, device) if name in ON_ANY_DEVICE else module.cases(tiny)
    return found
