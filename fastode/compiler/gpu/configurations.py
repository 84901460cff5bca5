"""How many rows a tile has, how many warps share it, and where it keeps its slopes.

Read from what Triton 3.7 and ptxas make of the kernel of rows (dopri5, with a record of the steps) for sm_80: warps,
registers of a thread, bytes of registers spilled (in brackets how many loads of them are inside the loop over the
stages) and KiB of shared memory. The kernels of grids and of shared steps need fewer registers throughout; on sm_90
and sm_100 the numbers differ by a sixth at most.

    field: features, hidden layers        float32                     float64
    Lotka-Volterra: 2                     1   128    0         0      1   164    0           0
    network: 2, 32, 32                    4   193    0         5      4   214    0          10
    network: 2, 64, 64                    4   199    0        18      4   228    0          36
      tf32x3                              4   196    0        36
    its flow, exact divergence            8   203    0        34      8   236    0          68
      tf32x3                              8   186    0        68
    its flow, Hutchinson's                8   248    0        18      8   255  136 (0)      36
    concatsquash: 2, 64, 64               4   214    0        18      4   255   16 (2)      36
    its flow, by tangents                 8   255    0        18      8   255  848 (22)     36
    network: 64, 64, 64                   4   198    0        50      8   219    0         100
    network: 2, 128, 128                  8   166    0        68      8   254    0         136
      slopes in memory                                                8   255  696 (70)     64
    its flow, slopes in memory            8   255   56 (7)    20      8   255  928 (99)     72
    network: 2, 256, 256, the same        8   255 1504 (83)   40      8   255 1948 (218)   128

Tiles of 16 rows and twice the warps need the same registers; 8 rows wait less for the slowest one. In float32, where
products are plain multiplications, tiles of 32 features have the least registers; tensor cores like 64.
"""

from __future__ import annotations

import torch

from ..program import Program
from .layout import NARROW
from .settings import Settings

#: of a block, on GPUs that have little; and what a kernel takes beside the matrices
LEAST_SHARED, OTHER_SHARED = 99 * 1024, 16 * 1024


def settings_for(
    program: Program, dtype: torch.dtype, precision: str = "ieee", shared_bytes: int = LEAST_SHARED
) -> Settings:
    """The settings of a program's kernels.

    Args:
        shared_bytes: shared memory that a block may have (:func:`shared_bytes_of`). The compiler keeps matrices there
            for the whole solve, unless the loop over the stages writes to memory: with too little of it, the slopes are
            kept in memory.
    """
    ops = program.ops
    widest = max((op.width for op in ops), default=1)
    if widest <= NARROW:
        return Settings(rows=32, warps=1, precision=precision)
    double = dtype == torch.float64
    affine = [(op.data[0], op.width, ops[op.inputs[0]].width) for op in ops if op.name == "affine"]
    matrices = {a for a in affine if min(a[1:]) > NARROW}
    state = ops[program.outputs[0]].width
    many = len(affine) > 3 or widest > 64 or (double and state > 2 * NARROW)
    return Settings(
        rows=8,
        warps=8 if many else 4,
        precision=precision,
        tile=64 if double or precision != "ieee" else 32,
        slopes_in_memory=sum(m * n for _, m, n in matrices) * dtype.itemsize > shared_bytes - OTHER_SHARED,
    )


def shared_bytes_of(device: torch.device) -> int:
    """Shared memory that a block may have there; that of a GPU that has little if it is not known."""
    if device.type != "cuda":
        return LEAST_SHARED
    properties = torch.cuda.get_device_properties(device)
    # what a kernel has to ask for; on AMD's GPUs there is no more than what it gets unasked
    return max(properties.shared_memory_per_block, getattr(properties, "shared_memory_per_block_optin", 0))


def sweep_settings_for(program: Program, dtype: torch.dtype, precision: str = "ieee") -> Settings:
    """The settings of the kernels of its sweeps.

    Products that sum over the rows need 16 of them. Read from what Triton 3.7 and ptxas make of dopri5's sweeps with
    the gradients of all constants: warps, and bytes of registers spilled on sm_80, sm_90 and sm_100 (none on gfx942,
    but 8 of the flow in float64).

        field                        float32, shared steps  own steps          float64, shared steps  own steps
        Lotka-Volterra: 2            1   0   0   0            0   0   0        1    0    0    0          0    0    0
        network: 2, 64, 64           4   0   0   0            0  28  92        8  112  156  108        352  348  256
        its flow, exact divergence   8  44  40  44           36  48  48        8  296  328  156       1448 1520  320
    """
    ops = program.ops
    if max((op.width for op in ops), default=1) <= NARROW:
        return Settings(rows=32, warps=1, precision=precision, keep_gradients=True)
    products = sum(op.name == "affine" and min(op.width, ops[op.inputs[0]].width) > NARROW for op in ops)
    return Settings(
        rows=16,
        warps=8 if dtype == torch.float64 or products > 1 else 4,
        precision=precision,
        keep_vectors=False,
    )
