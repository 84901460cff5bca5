"""A solve like the one before it on the same field: what was found out then is not found out again.

In a small batch most of the time of a solve goes into getting ready: is the field as it was traced, are its tensors as
they were, what do the options mean? Here one native call answers the first two questions, and a comparison with the
request before the third. What differs takes the long way of :mod:`fastode.compiler.dispatch`, which also says what is
wrong.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .. import _native
from .._env import engine_from_environment
from ..options import CALLBACKS
from .engine import Job, solved

if TYPE_CHECKING:
    from .compiled import CompiledField, Native


@dataclass(frozen=True)
class Repeat:
    """A request without options and extra arguments, and the job that it came to.

    Attributes:
        watch: whether the field is what it was, and its tensors.
        shape, dtype: of the state; a plain tensor on the CPU.
    """

    job: Job
    watch: _native.FieldWatch
    method: str | None
    rtol: float
    atol: float
    times: list[float]
    time_dtype: torch.dtype
    shape: torch.Size
    dtype: torch.dtype

    def solve(self, y0: Any, t: Any, rtol: Any, atol: Any, method: Any) -> Tensor | None:
        """The solution if this is another such request, or None."""
        if type(y0) is not Tensor or type(t) is not Tensor or type(rtol) is not float or type(atol) is not float:
            return None
        if in_transform():
            return None
        if method != self.method or rtol != self.rtol or atol != self.atol:
            return None
        if t.dtype is not self.time_dtype or t.requires_grad or t.tolist() != self.times:
            return None
        if y0.dtype is not self.dtype or not is_plain(y0) or y0.shape != self.shape:
            return None
        constants = self.watch.tensors()
        if constants is None or engine_from_environment() is not None:
            return None
        out = solved(self.job, y0, [], constants)
        return out if y0.ndim == 2 else out.view(len(self.times), *self.shape)


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` or forward mode is under way, of which any tensor may be."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_plain(y: Tensor) -> bool:
    """Whether a tensor lies on the CPU as it is read."""
    return y.is_cpu and y.layout is torch.strided and y.is_contiguous() and not y.is_neg()


def repeat_of(
    field: CompiledField, native: Native, job: Job, y0: Tensor, t: Tensor, rtol: Any, atol: Any, method: str | None
) -> Repeat | None:
    """What another solve like this one may use, or None: there is nothing yet, or it may not."""
    direct, func = native.traced.constants.direct, field.func
    if direct is None or not isinstance(func, nn.Module | types.FunctionType):
        return None
    if native.traced.held or not native.traced.differentiable:
        return None
    if type(rtol) is not float or type(atol) is not float or type(t) is not Tensor or t.requires_grad:
        return None
    if type(y0) is not Tensor or not is_plain(y0):
        return None
    request = (y0.shape, y0.dtype, job.times, t.dtype, rtol, atol, method)
    seen, field.last_request = field.last_request, request
    if request != seen:
        return None  # it takes as long to prepare as it saves: not for a solve that may not come again
    holders: list[dict[str, Any]] = [vars(field), vars(func), *([func._modules] if isinstance(func, nn.Module) else [])]
    assert field.reach is not None
    modules = field.reach.modules
    same: list[tuple[Any, Any, Any]] = [(vars(field), "memory", field.memory)]
    same += [(c.container, c.key, c.value) for c in field.reach.contents]
    same.append((field._modules if isinstance(func, nn.Module) else vars(field), "func", func))
    same += [(vars(m), "training", m.training) for m in modules]
    same += [(m._modules, name, child) for m in modules for name, child in m._modules.items()]
    watch = _native.FieldWatch(
        same,
        [(held, name) for held in holders for name in CALLBACKS],
        [(m._modules, len(m._modules)) for m in modules],
        [(container, key, shape) for (container, key), shape in zip(direct, native.shapes, strict=True)],
        y0.dtype,
    )
    return Repeat(job, watch, method, rtol, atol, job.times, t.dtype, y0.shape, y0.dtype)
