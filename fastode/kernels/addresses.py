"""Kernels that get addresses need plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..tree import Parts


def no_plain_tensors(parts: Parts, device: str, dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64)) -> str:
    """Why kernels on ``device`` for ``dtypes`` cannot work on the memory of these tensors, or an empty string."""
    for p in parts:
        if p.device.type != device:
            return f"the state is on {p.device}"
        if p.dtype not in dtypes:
            return f"the state is {p.dtype}"
        if type(p) not in (Tensor, torch.nn.Parameter):
            return f"the state is a {type(p).__name__}"
        if p.layout is not torch.strided:
            return f"the state's layout is {p.layout}"
        try:
            if p.data_ptr() == 0 and p.numel():
                return "the state has no memory"
        except RuntimeError:
            return "the state is inside a function transform"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        # the field may close over what is transformed, and its values have no address then
        return "a function transform is active"
    return ""
