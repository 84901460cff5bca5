"""Where kernels are launched, and whether they can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...tree import Parts
from ..addresses import no_plain_tensors

#: why there is no module
_missing = ""
try:
    from ... import _native_cuda as native
except ImportError as error:  # no nvcc when it was built
    native = None  # type: ignore[assignment]
    _missing = f"fastode._native_cuda is not built ({error})"

__all__ = ["native", "stream_on", "unavailable"]


@contextmanager
def stream_on(device: torch.device) -> Iterator[int]:
    """The caller's stream, with its device the current one: a launch goes to that."""
    with torch.cuda.device(device):
        yield torch.cuda.current_stream().cuda_stream


def unavailable(parts: Parts, rows: bool) -> str:
    """Why the CUDA engine cannot serve these tensors, or an empty string.

    Args:
        rows: whether each row has its own steps.
    """
    if reason := no_plain_tensors(parts, "cuda"):
        return reason
    if not rows:
        return f"the state is on {parts[0].device}, where only `solve` has kernels"
    if _missing:
        return _missing
    with stream_on(parts[0].device):
        return native.device_status()
