"""Engines: one folder each, four kernels each (stage, finish, control, interpolate), chosen once per solve.

``reference`` is plain torch and defines the meaning; ``native`` is C++ for CPU tensors; ``cuda`` serves CUDA tensors
whose rows have a step size each. A solve that needs a tape runs the same kernels as nodes of it (``native``) or torch's
operators (``reference``).
"""

from __future__ import annotations

from .._env import engine_from_environment
from ..errors import InvalidArgument, did_you_mean
from ..tree import Parts
from . import cuda
from .binding import Binding
from .native import NativeRowsStep, NativeStep, unavailable
from .native.control import RowControl as NativeControl
from .reference.control import RowControl
from .torch_step import TorchStep

ENGINES = ("cuda", "native", "reference")

__all__ = ["ENGINES", "Binding", "Engine", "select"]


class Engine:
    """The engine of one solve: a name, and why it is not the fastest one."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    @property
    def control(self) -> type[RowControl] | type[NativeControl]:
        """The controller of rows."""
        if self.name == "cuda":
            return cuda.CudaControl
        return NativeControl if self.name == "native" else RowControl

    def bind(self, binding: Binding) -> TorchStep | NativeStep:
        """The kernels of one solve."""
        if self.name == "cuda":
            return cuda.CudaRowsStep(binding)
        if self.name == "native":
            return NativeStep(binding) if binding.rows is None else NativeRowsStep(binding)
        return TorchStep(binding)


def select(parts: Parts, name: str | None = None, rows: bool = False) -> Engine:
    """The engine for these tensors: the one named, else ``FASTODE_ENGINE``, else the fastest that can.

    Args:
        rows: whether each row has its own steps.

    Raises:
        InvalidArgument: the name is unknown, or that engine cannot serve these tensors (with the reason).
    """
    wanted = name or engine_from_environment()
    if wanted is not None and wanted not in ENGINES:
        raise InvalidArgument(
            f"engine={wanted!r} is not known.{did_you_mean(wanted, list(ENGINES))} Known: {', '.join(ENGINES)}"
        )
    if wanted == "reference":
        return Engine("reference", "asked for by name")
    fastest = wanted or ("cuda" if any(p.is_cuda for p in parts) else "native")
    reason = cuda.unavailable(parts, rows) if fastest == "cuda" else unavailable(parts)
    if reason and wanted:
        raise InvalidArgument(f"engine={wanted!r} cannot serve this solve: {reason}")
    return Engine("reference", reason) if reason else Engine(fastest, "")
