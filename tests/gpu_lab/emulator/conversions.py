"""Conversions among numbers: PTX ISA, ``cvt``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .floating import rounding_mode
from .machine import Array, Machine, Operation, assign, dtype_of
from .memory import Where
from .program import Instruction
from .rounding import as_double, bfloat16_bits, from_double, tf32_bits

_TO_INTEGER: dict[str, Callable[[Array], Array]] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(instruction: Instruction, machine: Machine) -> Operation:
    """``cvt``: between integers and floats, and between floats; to integers it saturates, and NaN becomes 0."""
    *_, to, of = instruction.modifiers
    ftz = "ftz" in instruction.modifiers
    if to in ("bf16x2", "f16x2"):
        return _convert_pair(instruction, machine, to)
    out = machine.target(instruction.operands[0], to)
    a = machine.source(instruction.operands[1], of)
    if to == "tf32":
        if "rna" not in instruction.modifiers:
            raise NotImplementedError(str(instruction))
        return lambda where: assign(out, tf32_bits(a), where)
    from_float, to_float = of[0] == "f" or of == "bf16", to[0] == "f" or to == "bf16"
    if not from_float and not to_float:
        if "sat" in instruction.modifiers:
            raise NotImplementedError(str(instruction))
        narrow = dtype_of(to)
        return lambda where: assign(out, a.astype(narrow), where)
    if not from_float:
        # an integer of 64 bits is not a double; NumPy rounds it to the float in one step
        if to == "bf16" or rounding_mode(instruction) != "rn":
            raise NotImplementedError(str(instruction))
        return lambda where: assign(out, a.astype(out.dtype), where)
    read = as_double(of, ftz and of == "f32")
    to_integral = next((_TO_INTEGER[m] for m in instruction.modifiers if m in _TO_INTEGER), None)
    if not to_float:
        if to_integral is None:
            raise NotImplementedError(str(instruction))
        return _to_integer(out, a, read, to_integral, dtype_of(to))
    rounded = from_double(to, rounding_mode(instruction), ftz and to == "f32")
    integral = to_integral or (lambda x: x)
    saturates = "sat" in instruction.modifiers

    def operation(where: Where) -> None:
        x = integral(read(a))
        assign(out, rounded(np.fmin(np.fmax(x, 0.0), 1.0) if saturates else x), where)

    return operation


def _to_integer(
    out: Array,
    a: Array,
    read: Callable[[Array], Array],
    integral: Callable[[Array], Array],
    narrow: np.dtype[Any],
) -> Operation:
    limits = np.iinfo(narrow)
    low, high = float(limits.min), float(limits.max)

    def operation(where: Where) -> None:
        x = integral(read(a))
        inside = (x >= low) & (x < high)
        exact = np.where(inside, x, 0.0).astype(narrow)
        beyond = np.where(
            x >= high, narrow.type(limits.max), np.where(x < low, narrow.type(limits.min), narrow.type(0))
        )
        assign(out, np.where(inside, exact, beyond), where)

    return operation


def _convert_pair(instruction: Instruction, machine: Machine, to: str) -> Operation:
    """``cvt.rn.bf16x2.f32 d, a, b``: ``a`` becomes the upper half and ``b`` the lower."""
    if instruction.modifiers[:-2] != ("rn",) or instruction.type != "f32":
        raise NotImplementedError(str(instruction))
    out = machine.target(instruction.operands[0], "b32")
    upper, lower = (machine.source(o, "f32") for o in instruction.operands[1:])

    def bits(x: Array) -> Array:
        half = bfloat16_bits(x.astype(np.float64)) if to == "bf16x2" else x.astype(np.float16).view(np.uint16)
        return half.astype(np.uint32)

    return lambda where: assign(out, bits(upper) << np.uint32(16) | bits(lower), where)
