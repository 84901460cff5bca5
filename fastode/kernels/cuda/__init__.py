"""The CUDA engine: ``fastode._native_cuda`` for float32 and float64 tensors whose rows have their own steps."""

from .control import CudaControl
from .launch import unavailable
from .rows import CudaRowsStep

__all__ = ["CudaControl", "CudaRowsStep", "unavailable"]
