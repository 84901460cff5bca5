"""Where the repository is, and how tests import what lies in it and is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def importable() -> Iterator[None]:
    """Inside, ``bench`` can be imported. Outside, the repository is not on the path: its ``fastode`` need not be the
    installed one."""
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT))
