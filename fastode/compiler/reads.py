"""What a traced field does with values that the dispatcher of torch does not get to see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .lookups import without_reading
from .tracer import Tracer

#: what makes a tensor of one value, and which argument that is
_FILLS: dict[Any, int] = {torch.full: 1, torch.full_like: 1, Tensor.new_full: 2}


class Reads(TorchFunctionMode):
    """Has the tracer refuse what leaves torch without passing its dispatcher: ``tolist``, ``numpy``.

    ``torch.full(size, t)`` would make a number of ``t``; it becomes a tensor that is filled with it. ``x[index]`` would
    make one of a 0-dim ``index``; an axis of its own keeps it a tensor.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__) and args[0].numel():
            with self.tracer.named(f"Tensor.{func.__name__}"):
                args[0].detach().reshape(-1)[0].item()
        if func is Tensor.__getitem__ and (found := without_reading(self.tracer, *args)) is not None:
            index, axis = found
            return args[0][index].squeeze(axis)
        if func in _FILLS:
            place = _FILLS[func]
            value = args[place] if len(args) > place else kwargs["fill_value"]
            if isinstance(value, Tensor):
                if len(args) > place:
                    args = (*args[:place], 0.0, *args[place + 1 :])
                else:
                    kwargs = {**kwargs, "fill_value": 0.0}
                return func(*args, **(kwargs or {})).fill_(value)
        return func(*args, **(kwargs or {}))
