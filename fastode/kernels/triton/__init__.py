"""The Triton engine: kernels of a step for GPU tensors, whose scalars stay in device memory."""

from .commit import commit
from .control import control, poll
from .finish import PartialSums, Tolerances, finish
from .stage import stage
from .state import DeviceState

__all__ = ["DeviceState", "PartialSums", "Tolerances", "commit", "control", "finish", "poll", "stage"]
