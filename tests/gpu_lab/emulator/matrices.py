"""Tensor cores: PTX ISA, "Matrix Fragments for mma" of each shape, and ``ldmatrix``.

A fragment's registers hold the elements of a small matrix, spread over the warp: each shape has a table with the row
and the column of register ``k`` in lane ``l``, written with ``g = l // 4`` and ``t = l % 4``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .integers import Builder
from .machine import WARP, Array, Machine, Operation, assign, members
from .memory import Where
from .program import Instruction
from .rounding import Doubles, bfloat16_value

_G, _T = np.arange(WARP) // 4, np.arange(WARP) % 4
Place = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Shape:
    """``D[m, n] = A[m, k] B[k, n] + C[m, n]``.

    Attributes:
        read: the bits of one register of A or B as numbers, one or two a register: ``[T] -> list of [T]``.
        a, b, c: the rows and columns of each number, in the order of the registers.
        result: the type of C and D.
    """

    m: int
    n: int
    k: int
    register: str
    read: Callable[[Array], list[Doubles]]
    a: list[Place]
    b: list[Place]
    c: list[Place]
    result: str


def _tf32(bits: Array) -> list[Doubles]:
    """The hardware reads the upper 19 bits of a register."""
    return [(bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)]


def _bf16_pair(bits: Array) -> list[Doubles]:
    halves = np.ascontiguousarray(bits).view(np.uint16).reshape(-1, 2)
    return [bfloat16_value(halves[:, k]).astype(np.float64) for k in range(2)]


def _f16_pair(bits: Array) -> list[Doubles]:
    halves = np.ascontiguousarray(bits).view(np.float16).reshape(-1, 2)
    return [halves[:, k].astype(np.float64) for k in range(2)]


_C_16X8: list[Place] = [(_G + 8 * row, 2 * _T + column) for row in range(2) for column in range(2)]
_A_16X16: list[Place] = [
    (_G + 8 * row, 2 * _T + half + 8 * column) for column in range(2) for row in range(2) for half in range(2)
]
_B_16X8: list[Place] = [(2 * _T + half + 8 * row, _G) for row in range(2) for half in range(2)]


def _of_doubles(k: int) -> Shape:
    """The shapes of doubles with 16 rows, which sm_90 has."""
    a = [(_G + 8 * row, _T + 4 * column) for column in range(k // 4) for row in range(2)]
    b = [(_T + 4 * row, _G) for row in range(k // 4)]
    return Shape(16, 8, k, "f64", lambda x: [x.astype(np.float64)], a, b, _C_16X8, "f64")


SHAPES: dict[tuple[str, ...], Shape] = {
    ("m16n8k8", "f32", "tf32", "tf32", "f32"): Shape(
        16,
        8,
        8,
        "b32",
        _tf32,
        [(_G + 8 * row, _T + 4 * column) for column in range(2) for row in range(2)],
        [(_T + 4 * row, _G) for row in range(2)],
        _C_16X8,
        "f32",
    ),
    ("m16n8k4", "f32", "tf32", "tf32", "f32"): Shape(
        16, 8, 4, "b32", _tf32, [(_G + 8 * row, _T) for row in range(2)], [(_T, _G)], _C_16X8, "f32"
    ),
    ("m16n8k16", "f32", "bf16", "bf16", "f32"): Shape(16, 8, 16, "b32", _bf16_pair, _A_16X16, _B_16X8, _C_16X8, "f32"),
    ("m16n8k16", "f32", "f16", "f16", "f32"): Shape(16, 8, 16, "b32", _f16_pair, _A_16X16, _B_16X8, _C_16X8, "f32"),
    ("m16n8k4", "f64", "f64", "f64", "f64"): _of_doubles(4),
    ("m16n8k8", "f64", "f64", "f64", "f64"): _of_doubles(8),
    ("m16n8k16", "f64", "f64", "f64", "f64"): _of_doubles(16),
    ("m8n8k4", "f64", "f64", "f64", "f64"): Shape(
        8,
        8,
        4,
        "f64",
        lambda x: [x.astype(np.float64)],
        [(_G, _T)],
        [(_T, _G)],
        [(_G, 2 * _T), (_G, 2 * _T + 1)],
        "f64",
    ),
}
"""Shapes by the modifiers that tell them apart. The order of the sums within one product is not the hardware's."""


def multiply(instruction: Instruction, machine: Machine) -> Operation:
    """``mma.sync``: products exact, sums in double precision, rounded once to the type of the result."""
    key = tuple(m for m in instruction.modifiers if m not in ("sync", "aligned", "row", "col"))
    shape = SHAPES.get(key)
    if shape is None or instruction.modifiers[3:5] != ("row", "col"):
        raise NotImplementedError(str(instruction))
    d, a, b, c = (members(o) for o in instruction.operands)
    outs = [machine.target(m, shape.result) for m in d]
    a_bits, b_bits = ([machine.source(m, shape.register) for m in group] for group in (a, b))
    c_values = [machine.source(m, shape.result) for m in c]
    warps = machine.threads // WARP
    index = np.arange(warps)[:, None]

    def gather(values: list[Doubles], places: list[Place], rows: int, columns: int) -> Doubles:
        matrix = np.zeros((warps, rows, columns))
        for value, (row, column) in zip(values, places, strict=True):
            # a constant has one element, and is that of all lanes
            matrix[index, row, column] = value.reshape(warps, WARP) if value.size > 1 else value
        return matrix

    def operation(where: Where) -> None:
        left = gather([x for bits in a_bits for x in shape.read(bits)], shape.a, shape.m, shape.k)
        right = gather([x for bits in b_bits for x in shape.read(bits)], shape.b, shape.k, shape.n)
        result = left @ right + gather([x.astype(np.float64) for x in c_values], shape.c, shape.m, shape.n)
        for out, (row, column) in zip(outs, shape.c, strict=True):
            assign(out, result[index, row, column].reshape(-1), where)

    return operation


def load_matrix(instruction: Instruction, machine: Machine) -> Operation:
    """``ldmatrix``: 8 by 8 matrices of 16 bits; lane ``8 i + r`` has the address of row ``r`` of matrix ``i``."""
    if "m8n8" not in instruction.modifiers or instruction.type != "b16":
        raise NotImplementedError(str(instruction))
    outs = [machine.target(m, "b32") for m in members(instruction.operands[0])]
    address, memory = machine.addresses(instruction.operands[1]), machine.memory(instruction)
    begin = np.arange(machine.threads) - machine.lane
    rows = np.arange(8)
    within, pair = np.tile(_G, machine.threads // WARP), np.tile(2 * _T, machine.threads // WARP)
    warp = np.arange(machine.threads) // WARP
    transposed = "trans" in instruction.modifiers

    def operation(where: Where) -> None:
        lanes = np.broadcast_to(np.asarray(where), machine.threads)
        first_lanes = begin[::WARP][lanes[::WARP]]
        addresses = address()
        for k, out in enumerate(outs):
            of_rows = addresses[(first_lanes[:, None] + 8 * k + rows).reshape(-1)]
            loaded = memory.load(of_rows, True, np.dtype(np.uint16), 8, instruction)
            matrices = np.zeros((machine.threads // WARP, 8, 8), np.uint32)
            matrices[lanes[::WARP]] = np.stack(loaded, 1).reshape(-1, 8, 8)
            if transposed:
                matrices = matrices.transpose(0, 2, 1)
            low, high = matrices[warp, within, pair], matrices[warp, within, pair + 1]
            assign(out, low | high << np.uint32(16), where)

    return operation


def store_matrix(instruction: Instruction, machine: Machine) -> Operation:
    """``stmatrix``: the inverse of ``ldmatrix``."""
    if "m8n8" not in instruction.modifiers or instruction.type != "b16":
        raise NotImplementedError(str(instruction))
    sources = [machine.source(m, "b32") for m in members(instruction.operands[1])]
    address, memory = machine.addresses(instruction.operands[0]), machine.memory(instruction)
    begin = np.arange(machine.threads) - machine.lane
    within, pair = np.tile(_G, machine.threads // WARP), np.tile(2 * _T, machine.threads // WARP)
    warp = np.arange(machine.threads) // WARP
    transposed = "trans" in instruction.modifiers

    def operation(where: Where) -> None:
        lanes = np.broadcast_to(np.asarray(where), machine.threads)
        first_lanes = begin[::WARP][lanes[::WARP]]
        addresses = address()
        for k, source in enumerate(sources):
            matrices = np.zeros((machine.threads // WARP, 8, 8), np.uint16)
            matrices[warp, within, pair] = (source & np.uint32(0xFFFF)).astype(np.uint16)
            matrices[warp, within, pair + 1] = (source >> np.uint32(16)).astype(np.uint16)
            if transposed:
                matrices = matrices.transpose(0, 2, 1)
            of_rows = addresses[(first_lanes[:, None] + 8 * k + np.arange(8)).reshape(-1)]
            rows = matrices[lanes[::WARP]].reshape(-1, 8)
            memory.store(of_rows, True, list(rows.T), instruction)

    return operation


OPERATIONS: dict[str, Builder] = {"mma": multiply, "ldmatrix": load_matrix, "stmatrix": store_matrix}
