"""Where the GPU's kernels are compiled: skipped without Triton, or where it interprets (``interpreted/`` then runs)."""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):

    @pytest.fixture
    def compiles() -> None:
        """A process in which kernels are compiled."""
        pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")
else:
    collect_ignore_glob = ["test_*.py"]
