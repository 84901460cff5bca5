"""Every environment variable that fastode reads.

FASTODE_ENGINE      engine for all solves: ``triton``, ``cuda``, ``native``, ``reference`` (default: the fastest one).
FASTODE_CPU_TARGET  instruction set of the native engine, read when it is imported: ``baseline``, ``avx2``, ``avx512``.
FASTODE_CUDA        at build time: ``0`` no CUDA module, ``1`` required, ``auto`` if nvcc is there.
"""

from __future__ import annotations

from . import _native


def engine_from_environment() -> str | None:
    """``FASTODE_ENGINE``, or None."""
    return _native.environment("FASTODE_ENGINE") or None
