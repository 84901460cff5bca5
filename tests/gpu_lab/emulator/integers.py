"""Arithmetic of integers: PTX ISA, sections "Integer Arithmetic" and "Extended-Precision Integer Arithmetic"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .machine import Array, Machine, Operation, assign
from .program import Instruction

Builder = Callable[[Instruction, Machine], Operation]


def elementwise(function: Callable[..., Array]) -> Builder:
    """An operator whose operands and result have the type of the instruction; ``function`` takes and returns arrays."""

    def build(instruction: Instruction, machine: Machine) -> Operation:
        out = machine.target(instruction.operands[0], instruction.type)
        sources = [machine.source(o, instruction.type) for o in instruction.operands[1:]]
        return lambda where: assign(out, function(*sources), where)

    return build


def ufunc(function: np.ufunc) -> Builder:
    """As :func:`elementwise`, for a function of NumPy that writes into its result itself."""

    def build(instruction: Instruction, machine: Machine) -> Operation:
        out = machine.target(instruction.operands[0], instruction.type)
        sources = [machine.source(o, instruction.type) for o in instruction.operands[1:]]
        if len(sources) == 1:
            (a,) = sources
            return lambda where: function(a, out=out, where=where)
        a, b = sources
        return lambda where: function(a, b, out=out, where=where)

    return build


def _times(a: Array, b: Array, instruction: Instruction) -> Array:
    """The part of the product that ``lo``, ``hi`` or ``wide`` asks for."""
    bits = 8 * a.dtype.itemsize
    if "lo" in instruction.modifiers:
        return a * b
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        product = a.astype(wide) * b.astype(wide)
        return product if "wide" in instruction.modifiers else (product >> wide.type(bits)).astype(a.dtype)
    if "wide" in instruction.modifiers:
        raise NotImplementedError(f"a product of 128 bits, {instruction}")
    return _high_word(a, b)


def _high_word(a: Array, b: Array) -> Array:
    """The upper 64 bits of a product of two words of 64 bits, by halves; signed ones by correction of the unsigned."""
    x, y = a.view(np.uint64), b.view(np.uint64)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    high = x1 * y1 + (middle >> half) + ((middle & low) + x0 * y1 >> half)
    if a.dtype.kind == "i":
        zero = np.uint64(0)
        high = high - np.where(a < 0, y, zero) - np.where(b < 0, x, zero)
    return high.view(a.dtype)


def _result_type(instruction: Instruction) -> str:
    type_ = instruction.type
    return f"{type_[0]}{2 * int(type_[1:])}" if "wide" in instruction.modifiers else type_


def multiply(instruction: Instruction, machine: Machine) -> Operation:
    out = machine.target(instruction.operands[0], _result_type(instruction))
    a, b = (machine.source(o, instruction.type) for o in instruction.operands[1:])
    if "lo" in instruction.modifiers:
        return lambda where: np.multiply(a, b, out, where=where)
    return lambda where: assign(out, _times(a, b, instruction), where)


def multiply_add(instruction: Instruction, machine: Machine) -> Operation:
    result = _result_type(instruction)
    out, c = machine.target(instruction.operands[0], result), machine.source(instruction.operands[3], result)
    a, b = (machine.source(o, instruction.type) for o in instruction.operands[1:3])
    if "cc" in instruction.modifiers or instruction.opcode == "madc":
        return _with_carry(instruction, machine, lambda: _times(a, b, instruction), c)
    return lambda where: assign(out, _times(a, b, instruction) + c, where)


def add_with_carry(instruction: Instruction, machine: Machine) -> Operation:
    """``add.cc``, ``addc``, ``sub.cc`` and ``subc``; plain additions and subtractions do not come here."""
    a, b = (machine.source(o, f"u{instruction.type[1:]}") for o in instruction.operands[1:])
    return _with_carry(instruction, machine, lambda: a, b)


def _with_carry(instruction: Instruction, machine: Machine, first: Callable[[], Array], second: Array) -> Operation:
    """Takes the carry (a borrow for subtractions) where the opcode ends in ``c`` and keeps the new one for ``.cc``."""
    out = machine.target(instruction.operands[0], f"u{instruction.type[1:]}")
    takes, keeps = instruction.opcode in ("addc", "subc", "madc"), "cc" in instruction.modifiers
    subtracts = instruction.opcode.startswith("sub")
    unsigned = out.dtype

    def operation(where: bool | Array) -> None:
        a, b = first().view(unsigned), second.view(unsigned)
        carry = machine.carry.astype(unsigned) if takes else unsigned.type(0)
        if subtracts:
            part = a - b
            result = part - carry
            overflows = (a < b) | (part < carry)
        else:
            part = a + b
            result = part + carry
            overflows = (part < a) | (result < part)
        assign(out, result, where)
        if keeps:
            assign(machine.carry, overflows, where)

    return operation


def _divide(a: Array, b: Array) -> Array:
    """Rounded towards zero. By zero the result is not specified; NumPy makes it 0."""
    return (a - np.fmod(a, b)) // b


OPERATIONS: dict[str, Builder] = {
    "add": ufunc(np.add),
    "sub": ufunc(np.subtract),
    "addc": add_with_carry,
    "subc": add_with_carry,
    "mul": multiply,
    "mad": multiply_add,
    "madc": multiply_add,
    "div": elementwise(_divide),
    "rem": ufunc(np.fmod),
    "min": ufunc(np.minimum),
    "max": ufunc(np.maximum),
    "neg": ufunc(np.negative),
    "abs": ufunc(np.absolute),
}
