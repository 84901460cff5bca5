"""The laboratory compiles, so that its tests need the process in which Triton's interpreter is off."""

import os

import pytest


@pytest.fixture(autouse=True)
def _kernels_are_compiled() -> None:
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        pytest.skip("TRITON_INTERPRET is set: kernels are interpreted in this process and cannot be compiled")
