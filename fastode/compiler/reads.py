"""Values that leave torch while a field is traced."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from .tracer import Tracer


class Reads(TorchFunctionMode):
    """Has the tracer refuse what leaves torch without passing its dispatcher: ``tolist``, ``numpy``."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__) and args[0].numel():
            with self.tracer.named(f"Tensor.{func.__name__}"):
                args[0].detach().reshape(-1)[0].item()
        return func(*args, **(kwargs or {}))
