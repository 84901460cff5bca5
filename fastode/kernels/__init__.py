"""Engines: one folder each, four kernels each (stage, finish, control, interpolate), chosen once per solve.

``reference`` is plain torch and defines the meaning; ``native`` is C++ for CPU tensors; ``triton`` serves GPU tensors
and keeps the whole solve on the device (:mod:`fastode.device`); ``cuda`` serves CUDA tensors whose rows have a step
size each in a loop that the host runs. A solve that needs a tape runs the same kernels as nodes of it (``native``) or
torch's operators (``reference``).
"""

from __future__ import annotations

from .._env import engine_from_environment
from ..errors import InvalidArgument, did_you_mean
from ..tree import Parts
from . import cuda, on_device
from .binding import Binding
from .native import NativeRowsStep, NativeStep, unavailable
from .native.control import RowControl as NativeControl
from .reference.control import RowControl
from .torch_step import TorchStep

ENGINES = ("triton", "cuda", "native", "reference")

__all__ = ["ENGINES", "Binding", "Engine", "select"]


class Engine:
    """The engine of one solve: a name, and why it is not the fastest one.

    Args:
        on_device: whether a solve stays on the device if the Triton kernels can do all of it. The name is that of the
            engine for others, whose loop runs on the host.
        named: whether the user asked for the device, so that a solve that cannot stay there is an error.
    """

    def __init__(self, name: str, reason: str, on_device: bool = False, named: bool = False) -> None:
        self.name = name
        self.reason = reason
        self.on_device = on_device
        self.named = named
        #: why a solve on the device does not repeat its attempts as a CUDA graph; "" if it is to
        self.no_graph = "not asked for"

    def leave_device(self, why: str) -> str:
        """What the account says of a solve that does not stay on the device.

        Raises:
            InvalidArgument: the user wants it there.
        """
        if self.named:
            raise InvalidArgument(f"engine='triton' cannot serve this solve: {why}")
        return f"not on the device: {why}"

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
        if self.on_device:
            from .triton.step import TritonStep

            return TritonStep(binding)
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
    on_gpu = any(p.is_cuda for p in parts)
    if wanted == "triton" or (on_gpu and wanted is None):
        no_triton = on_device.unavailable(parts)
        if not no_triton:
            return Engine(_on_host(parts, rows)[0], "", on_device=True, named=wanted is not None)
        if wanted:
            raise InvalidArgument(f"engine='triton' cannot serve this solve: {no_triton}")
        name, reason = _on_host(parts, rows)
        return Engine(name, reason and no_triton)
    if wanted is None:
        return Engine(*_on_host(parts, rows))
    reason = cuda.unavailable(parts, rows) if wanted == "cuda" else unavailable(parts)
    if reason:
        raise InvalidArgument(f"engine={wanted!r} cannot serve this solve: {reason}")
    return Engine(wanted, "")


def _on_host(parts: Parts, rows: bool) -> tuple[str, str]:
    """The fastest engine whose loop runs on the host, and why it is not a faster one."""
    on_gpu = any(p.is_cuda for p in parts)
    reason = cuda.unavailable(parts, rows) if on_gpu else unavailable(parts)
    return ("reference", reason) if reason else ("cuda" if on_gpu else "native", "")
