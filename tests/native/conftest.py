from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

_native = pytest.importorskip("fastode._native", reason="the native module is not built")


@pytest.fixture(params=_native.targets())
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.target()
    _native.select_target(request.param)
    yield request.param
    _native.select_target(before)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param
