"""Whether a solve can stay on the device: whether the Triton kernels can work on the state."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from ..tree import Parts
from .addresses import no_plain_tensors

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@functools.cache
def _no_triton() -> str:
    return "" if importlib.util.find_spec("triton") else "triton is not installed"


def unavailable(parts: Parts) -> str:
    """Why the Triton kernels cannot work on the memory of these tensors, or an empty string.

    Where Triton interprets (``TRITON_INTERPRET=1``), its device is the CPU.
    """
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    return _no_triton() or no_plain_tensors(parts, device, _DTYPES)
