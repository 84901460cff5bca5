"""Where the GPU's kernels are compiled: skipped without Triton, or where it interprets (``interpreted/`` then runs)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from fastode.kernels import Engine


@pytest.fixture
def hosts_loop(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to have solves on CPU tensors do what those on a GPU do that cannot stay there."""

    def switch() -> None:
        monkeypatch.setattr("fastode.options.select", lambda parts, name: Engine("reference", "", on_device=True))

    return switch


if os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):

    @pytest.fixture
    def compiles() -> None:
        """A process in which kernels are compiled."""
        pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")
else:
    collect_ignore_glob = ["test_*.py"]
