"""Numbers of the host on a device, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(numbers: Tensor, device: torch.device) -> Tensor:
    """``numbers`` on ``device``: from pinned memory, because a copy from other memory waits for all that is queued."""
    if device.type != "cuda" or numbers.is_cuda:
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)
