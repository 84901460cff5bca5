"""Executes PTX for sm_80 on the CPU: one block after another, the threads of a block as the lanes of NumPy arrays.

What it checks that an interpreter of Triton's language cannot: the precision that was compiled, every address against
the tensors that were passed, alignment, barriers and warp instructions under divergence, and reads of shared memory
that nobody wrote (it starts as NaN). What it does not: ptxas, the hardware's memory model, and the last bits of
approximate instructions (see :mod:`.floating`).
"""

from .fault import EmulationFault
from .launch import Statistics, emulate, emulated_gpu, emulated_launch

__all__ = ["EmulationFault", "Statistics", "emulate", "emulated_gpu", "emulated_launch"]
