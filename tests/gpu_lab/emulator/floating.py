"""Arithmetic of floats: PTX ISA, sections "Floating Point Instructions" and "Half Precision Floating Point".

What is not emulated to the last bit: ``fma.rn.f32`` is computed in double precision and rounded again, which differs
from one rounding in about one of 2**29 results; the approximations (``ex2``, ``lg2``, ``rcp``, ``rsqrt``, ``sqrt``,
``div.full``) are correctly rounded here and off by up to two units in the last place there. Some are coarser than a
reader would expect, and are made so: ``tanh.approx.f32`` has 11 bits, ``sin.approx`` and ``cos.approx`` an absolute
error of 2**-21, ``rcp.approx.ftz.f64`` and ``rsqrt.approx.ftz.f64`` the upper half of a double.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .integers import Builder, ufunc
from .machine import Array, Machine, Operation, assign
from .memory import Where
from .program import Instruction
from .rounding import add_towards, as_double, flush, from_double, fused_multiply_add

_MODES = ("rn", "rz", "rm", "rp")


def rounding_mode(instruction: Instruction) -> str:
    return next((m for m in instruction.modifiers if m in _MODES), "rn")


def _plain(instruction: Instruction) -> bool:
    """Whether NumPy's own operation on the type of the instruction does what it says."""
    changed = "ftz" in instruction.modifiers or "sat" in instruction.modifiers or rounding_mode(instruction) != "rn"
    return instruction.type in ("f16", "f32", "f64") and not changed


def through_double(function: Callable[..., Array]) -> Builder:
    """An operator computed in double precision and rounded to the type of the instruction.

    For sums, products, quotients and square roots of floats with at most 24 bits the two roundings are as good as one:
    double precision has more than twice as many bits, plus two.
    """

    def build(instruction: Instruction, machine: Machine) -> Operation:
        type_, ftz = instruction.type, "ftz" in instruction.modifiers and instruction.type == "f32"
        out = machine.target(instruction.operands[0], type_)
        sources = [machine.source(o, type_) for o in instruction.operands[1:]]
        read, rounded = as_double(type_, ftz), from_double(type_, rounding_mode(instruction), ftz)
        saturates = "sat" in instruction.modifiers

        def operation(where: Where) -> None:
            result = function(*(read(x) for x in sources))
            if saturates:
                result = np.fmin(np.fmax(result, 0.0), 1.0)
            assign(out, rounded(result), where)

        return operation

    return build


def arithmetic(function: np.ufunc) -> Builder:
    """Addition and its like: NumPy's where that is the same, through double precision otherwise."""
    direct, indirect = ufunc(function), through_double(function)

    def build(instruction: Instruction, machine: Machine) -> Operation:
        if instruction.opcode in ("add", "sub") and instruction.type == "f64" and not _plain(instruction):
            return _sum_of_doubles(instruction, machine)
        return (direct if _plain(instruction) else indirect)(instruction, machine)

    return build


def _sum_of_doubles(instruction: Instruction, machine: Machine) -> Operation:
    """Sums and differences in double precision that are not rounded to nearest."""
    mode, sign = rounding_mode(instruction), -1.0 if instruction.opcode == "sub" else 1.0
    out = machine.target(instruction.operands[0], "f64")
    a, b = (machine.source(o, "f64") for o in instruction.operands[1:])
    return lambda where: assign(out, add_towards(a, sign * b, mode), where)


def extremum(of_numbers: np.ufunc, with_nan: np.ufunc) -> Builder:
    """``min`` and ``max`` prefer a number to a NaN, unless the instruction says ``.NaN``."""

    def build(instruction: Instruction, machine: Machine) -> Operation:
        return arithmetic(with_nan if "NaN" in instruction.modifiers else of_numbers)(instruction, machine)

    return build


def multiply_add(instruction: Instruction, machine: Machine) -> Operation:
    """``fma``, and ``mad`` of floats, which is the same on every GPU of today."""
    if instruction.type == "f64" and _plain(instruction):
        return through_double(fused_multiply_add)(instruction, machine)
    if instruction.type != "f32" or not _plain(instruction):
        return through_double(lambda a, b, c: a * b + c)(instruction, machine)
    out = machine.target(instruction.operands[0], "f32")
    a, b, c = (machine.source(o, "f32") for o in instruction.operands[1:])
    left, right = np.empty(machine.threads), np.empty(machine.threads)

    def operation(where: Where) -> None:
        left[...] = a
        right[...] = b
        np.multiply(left, right, left)
        right[...] = c
        np.add(left, right, left)
        assign(out, left, where)

    return operation


def sign_bit(function: Callable[[Array, Array], Array]) -> Builder:
    """``neg`` and ``abs``, which change the highest bit and nothing else, even of a NaN."""

    def build(instruction: Instruction, machine: Machine) -> Operation:
        bits = f"u{16 if instruction.type == 'bf16' else int(instruction.type[1:])}"
        out = machine.target(instruction.operands[0], bits)
        a = machine.source(instruction.operands[1], bits)
        sign = a.dtype.type(1 << (8 * a.dtype.itemsize - 1))
        if "ftz" not in instruction.modifiers:
            return lambda where: assign(out, function(a, sign), where)
        return lambda where: assign(out, flush(function(a, sign).view(np.float32)).view(np.uint32), where)

    return build


def _upper_half(x: Array) -> Array:
    return (x.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


def _eleven_bits(x: Array) -> Array:
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2048.0) / 2048.0, exponent)


def approximation(function: Callable[[Array], Array], coarse: Callable[[Array], Array] | None = None) -> Builder:
    """``function`` in double precision, rounded; ``coarse`` where the instruction's error is far above one rounding."""

    def build(instruction: Instruction, machine: Machine) -> Operation:
        of_doubles = instruction.type == "f64" and {"approx", "ftz"} <= set(instruction.modifiers)
        if of_doubles:
            return through_double(lambda x: _upper_half(function(x)))(instruction, machine)
        if coarse is not None and "approx" in instruction.modifiers:
            return through_double(lambda x: coarse(function(x)))(instruction, machine)
        return through_double(function)(instruction, machine)

    return build


def _copysign(instruction: Instruction, machine: Machine) -> Operation:
    out = machine.target(instruction.operands[0], instruction.type)
    sign, magnitude = (machine.source(o, instruction.type) for o in instruction.operands[1:])
    return lambda where: assign(out, np.copysign(magnitude, sign), where)


def _square_root(instruction: Instruction, machine: Machine) -> Operation:
    direct = instruction.type in ("f32", "f64") and _plain(instruction)
    build = ufunc(np.sqrt) if direct else through_double(np.sqrt)
    return build(instruction, machine)


def _reciprocal_root(x: Array) -> Array:
    return 1.0 / np.sqrt(x)


OPERATIONS: dict[str, Builder] = {
    "add": arithmetic(np.add),
    "sub": arithmetic(np.subtract),
    "mul": arithmetic(np.multiply),
    "div": arithmetic(np.divide),
    "min": extremum(np.fmin, np.minimum),
    "max": extremum(np.fmax, np.maximum),
    "fma": multiply_add,
    "mad": multiply_add,
    "neg": sign_bit(np.bitwise_xor),
    "abs": sign_bit(lambda a, sign: a & ~sign),
    "copysign": _copysign,
    "sqrt": _square_root,
    "rsqrt": approximation(_reciprocal_root),
    "rcp": approximation(np.reciprocal),
    "ex2": approximation(np.exp2),
    "lg2": approximation(np.log2),
    "sin": approximation(np.sin, lambda y: np.rint(y * 2.0**21) / 2.0**21),
    "cos": approximation(np.cos, lambda y: np.rint(y * 2.0**21) / 2.0**21),
    "tanh": approximation(np.tanh, _eleven_bits),
}
"""The operators by opcode, for operands of type f16, bf16, f32 and f64."""
