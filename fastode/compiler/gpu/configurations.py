"""How many rows a tile has, how many warps share it, and where it keeps its slopes.

Read from what Triton 3.7 and ptxas make of the kernel of rows (dopri5, with a record of the steps) for sm_80: warps,
registers of a thread, bytes of registers spilled and KiB of shared memory. The kernels of grids and of shared steps
need fewer registers throughout. sm_90 and sm_100 differ by a sixth at most, but for float64 on sm_100, where products
are plain multiplications: Hutchinson's flow and those by tangents spill 340 bytes there, networks of 128 units 1,850.

    field: features, hidden layers        float32                     float64
    Lotka-Volterra: 2                     1   128    0     0          1   164    0     0
    network: 2, 32, 32                    4   193    0     5          4   214    0    10
    network: 2, 64, 64                    4   199    0    18          4   228    0    36
      tf32x3                              4   196    0    36
    its flow, exact divergence            8   203    0    34          8   236    0    68
      tf32x3                              8   186    0    68
    its flow, Hutchinson's                8   248    0    18          8   208    0    36  slopes in memory
    concatsquash: 2, 64, 64               4   214    0    18          8   240    0    36
    its flow, by tangents                 8   255    0    18          8   233    0    36  slopes in memory
    network: 64, 64, 64                   4   207    0    50          8   183    0    36  slopes in memory
    network: 2, 128, 128                  8   184    0    68          8   248    0    40  slopes in memory
    its flow, slopes in memory            8   255   32     8          8   255    8    40
      tf32x3                              8   255   64    20
    network: 2, 256, 256, the same        8   255   24    24          8   255  124    48
      tf32x3                              8   255   84    24

Tiles of 16 rows and twice the warps need the same registers; 8 rows wait less for the slowest one. In float32, where
products are plain multiplications, tiles of 32 features have the least registers up to 128 hidden units; beyond, and
on tensor cores, those of 64. With its slopes in memory a kernel reads its matrices anew at every stage, but computes
every hidden layer once (:mod:`.settled`): the better choice where registers are short.
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
            kept in memory, and so they are where float64 has too few registers.
    """
    ops = program.ops
    widest = max((op.width for op in ops), default=1)
    if widest <= NARROW:
        return Settings(rows=32, warps=1, precision=precision)
    double = dtype == torch.float64
    affine = [(op.data[0], op.width, ops[op.inputs[0]].width) for op in ops if op.name == "affine"]
    matrices = {a for a in affine if min(a[1:]) > NARROW}
    state, wide = ops[program.outputs[0]].width, sum(op.width > NARROW for op in ops)
    many = len(affine) > 3 or widest > 64 or (double and (state > 2 * NARROW or wide > 16))
    no_room = sum(m * n for _, m, n in matrices) * dtype.itemsize > shared_bytes - OTHER_SHARED
    return Settings(
        rows=8,
        warps=8 if many else 4,
        precision=precision,
        tile=64 if double or precision != "ieee" or widest > 128 else 32,
        slopes_in_memory=no_room or (double and len(affine) > 4),
    )


def shared_bytes_of(device: torch.device) -> int:
    """Shared memory that a block may have there; that of a GPU that has little if it is not known."""
    if device.type != "cuda":
        return LEAST_SHARED
    properties = torch.cuda.get_device_properties(device)
    # what a kernel has to ask for; on AMD's GPUs there is no more than what it gets unasked
    return max(properties.shared_memory_per_block, getattr(properties, "shared_memory_per_block_optin", 0))


def has_float64_tensor_cores(device: torch.device) -> bool:
    """Whether Triton multiplies in float64 on tensor cores there: up to sm_90."""
    return device.type != "cuda" or torch.version.hip is not None or torch.cuda.get_device_capability(device) < (10, 0)


def sweep_settings_for(
    program: Program, dtype: torch.dtype, precision: str = "ieee", float64_tensor_cores: bool = True
) -> Settings:
    """The settings of the kernels of its sweeps.

    Products that sum over the rows need 16 of them. On tensor cores, eight warps share a tile of 64 features; of one of
    32, half of them would repeat the products of the others.

    Args:
        float64_tensor_cores: see :func:`has_float64_tensor_cores`.

    Read from what Triton 3.7 and ptxas make of dopri5's sweeps with the gradients of all constants: warps, and bytes of
    registers spilled on sm_80, sm_90 and sm_100 (none on gfx942).

        field                        float32, shared steps  own steps          float64, shared steps  own steps
        Lotka-Volterra: 2            1   0   0   0            0   0   0        1    0    0    0          0    0    0
        network: 2, 64, 64           4   0   0   0            0  20  72        8    0    0   84          8   20  256
          tf32x3                     8   0   0   0            0   0   4
        its flow, exact divergence   8  44  40  44           36  48  48        8   68   60  188        144   92  344
          tf32x3                     8   8  80  48           68  80  80
    """
    ops = program.ops
    if max((op.width for op in ops), default=1) <= NARROW:
        return Settings(rows=32, warps=1, precision=precision, keep_gradients=True)
    products = sum(op.name == "affine" and min(op.width, ops[op.inputs[0]].width) > NARROW for op in ops)
    double = dtype == torch.float64
    tensor_cores = float64_tensor_cores if double else precision != "ieee"
    return Settings(
        rows=16,
        warps=8 if double or tensor_cores or products > 1 else 4,
        precision=precision,
        tile=64 if tensor_cores else 32,
        keep_vectors=False,
    )
