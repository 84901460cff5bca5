"""How many rows a tile has, how many warps share it, and where it keeps its slopes.

The fewer warps share a tile, the fewer instructions a row costs: what a row has once, such as its step size, is
computed in every warp, and a thread with more elements reads each factor of a product for more of them. A row of a flow
takes 1,512 instructions with four warps where eight take 2,128, and two thirds of the reads of shared memory; one of a
network 708 with two where four take 1,144. So a tile has the fewest warps whose registers hold it.

Read from what Triton 3.7 and ptxas make of the kernel of rows (dopri5, with a record of the steps) for sm_80: warps,
registers of a thread, bytes of registers spilled and KiB of shared memory; "m" where the slopes are in memory. The
kernels of grids and of shared steps need fewer registers.

    field: features, hidden layers        float32                       float64
    Lotka-Volterra: 2                     1   128    0     0            1   164    0     0
    network: 2, 32, 32                    2   203    0     5            4   214    0    10
    network: 2, 64, 64                    2   212    0    18            4   228    0    36
      tf32x3                              2   242    0    36
    its flow, exact divergence            4   254    0    34            8   236    0    68
      tf32x3                              2   254    0    68
    its flow, Hutchinson's                8   248    0    18            8   208    0    36  m
      tf32x3                              4   243    0    36
    concatsquash: 2, 64, 64               2   250    0    18            8   240    0    36
    its flow, by tangents                 8   255    0    18            8   233    0    36  m
    network: 64, 64, 64                   4   207    0    50            8   183    0    36  m
    network: 2, 128, 128                  2   255    0    68            8   248    0    40  m
      its flow, exact divergence          4   255   24     8  m         8   255    8    40  m
        tf32x3                            8   255   64    20  m
    network: 2, 256, 256                  4   254   64    12  m         8   255  124    48  m
      tf32x3                              8   255   84    24  m

In float32 sm_90 and sm_100 spill no more than that. In float64 up to 64 hidden units sm_90 spills 8 bytes in one case,
from 128 on up to 472. On sm_100 Triton multiplies float64 without tensor cores: that spills up to 384 bytes with 64
hidden units, and from 1,844 on with more.

8 rows wait less for the slowest one than 16 do. With its slopes in memory a kernel reads its matrices anew at every
stage, but computes every hidden layer once (:mod:`.settled`): the better choice where registers are short.
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
    n_maps, products = sum(op.name == "affine" for op in ops), _products(program)
    narrow_state = ops[program.outputs[0]].width <= 2 * NARROW
    few_maps, few_values = n_maps <= 4, sum(op.width > NARROW for op in ops) <= 16
    no_room = sum(m * n for _, m, n in set(products)) * dtype.itemsize > shared_bytes - OTHER_SHARED
    in_memory = no_room or (double and not (few_maps and narrow_state))
    small = widest <= 64 and few_maps and few_values and narrow_state
    if double:
        warps = 4 if small and n_maps <= 3 else 8
    elif precision != "ieee":
        warps = 2 if small else 4 if widest <= 64 and (few_maps or few_values) else 8
    else:
        one_product = len(products) == 1 and widest <= 128 and not in_memory
        warps = 8 if not few_maps else 2 if one_product else 4
    return Settings(
        rows=8,
        warps=warps,
        precision=precision,
        tile=64 if double or precision != "ieee" or (few_maps and len(products) == 2 and not in_memory) else 32,
        slopes_in_memory=in_memory,
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

    Products that sum over the rows need 16 of them. On tensor cores, eight warps can share a tile of 64 features; of
    one of 32, half of them would repeat the products of the others.

    Args:
        float64_tensor_cores: see :func:`has_float64_tensor_cores`.

    Read from what Triton 3.7 and ptxas make of dopri5's sweeps with the gradients of all constants: warps, and bytes of
    registers spilled on sm_80, sm_90 and sm_100 (none on gfx942).

        field                        float32, shared steps  own steps          float64, shared steps  own steps
        Lotka-Volterra: 2            1   0   0   0            0   0   0        1    0    0    0          0    0    0
        network: 2, 64, 64           4   0   0   0            0  20  72        8    0    0   84          8   20  256
          tf32x3                     4   0   0   0            0  32  52
        its flow, exact divergence   8  44  40  44           36  48  48        8   68   60  188        144   92  344
          tf32x3                     8   8  80  48           68  80  80
    """
    ops = program.ops
    if max((op.width for op in ops), default=1) <= NARROW:
        return Settings(rows=32, warps=1, precision=precision, keep_gradients=True)
    double = dtype == torch.float64
    tensor_cores = float64_tensor_cores if double else precision != "ieee"
    return Settings(
        rows=16,
        warps=8 if double or len(_products(program)) > 1 else 4,
        precision=precision,
        tile=64 if tensor_cores else 32,
        keep_vectors=False,
    )


def _products(program: Program) -> list[tuple[int, int, int]]:
    """The affine maps between wide values, which are products of tiles: constant, lines and columns of each."""
    affine = [(op.data[0], op.width, program.ops[op.inputs[0]].width) for op in program.ops if op.name == "affine"]
    return [a for a in affine if min(a[1:]) > NARROW]
