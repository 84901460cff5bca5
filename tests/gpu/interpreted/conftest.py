"""Kernels under Triton's interpreter, which has to be chosen before Triton is imported: a process of its own.

``tests/gpu/test_own_process.py`` runs this folder with ``TRITON_INTERPRET=1``; otherwise nothing here is collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def as_on_a_device() -> Iterator[None]:
    """The same random numbers in every test; and no warnings of NumPy, which interprets: a device gives NaN without."""
    torch.manual_seed(0)
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
