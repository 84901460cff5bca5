"""The native engine: the C++ kernels of ``fastode._native`` for contiguous float32 and float64 CPU tensors."""

from .rows import NativeRowsStep
from .step import NativeStep, combine_into, unavailable
from .tape import NativeTapeStep

__all__ = ["NativeRowsStep", "NativeStep", "NativeTapeStep", "combine_into", "unavailable"]
