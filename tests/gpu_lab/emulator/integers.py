"""Arithmetic and bits of integers: PTX ISA, sections "Integer Arithmetic", "Extended-Precision", "Logic and Shift"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .machine import Array, Machine, Operation, assign, dtype_of
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
            return lambda where: function(a, out, where=where)
        a, b = sources
        return lambda where: function(a, b, out) if where is True else function(a, b, out, where=where)

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


def shift(instruction: Instruction, machine: Machine) -> Operation:
    """``shl`` and ``shr``: an amount beyond the width shifts everything out."""
    out, a = (
        machine.target(instruction.operands[0], instruction.type),
        machine.source(instruction.operands[1], instruction.type),
    )
    amount = machine.source(instruction.operands[2], "u32")
    bits = 8 * a.dtype.itemsize
    function = np.left_shift if instruction.opcode == "shl" else np.right_shift
    if amount.size == 1 and int(amount[0]) < bits:
        fixed = amount.astype(a.dtype)
        return lambda where: function(a, fixed, out, where=where)
    signed = a.dtype.kind == "i" and instruction.opcode == "shr"

    def operation(where: bool | Array) -> None:
        inside = np.minimum(amount, bits - 1).astype(a.dtype)
        gone = np.right_shift(a, a.dtype.type(bits - 1)) if signed else a.dtype.type(0)
        assign(out, np.where(amount < bits, function(a, inside), gone), where)

    return operation


def funnel_shift(instruction: Instruction, machine: Machine) -> Operation:
    """``shf``: the upper (``l``) or lower (``r``) word of the shifted pair ``high:low``."""
    out = machine.target(instruction.operands[0], "u32")
    low, high, amount = (machine.source(o, "u32") for o in instruction.operands[1:])
    left, wraps = instruction.modifiers[0] == "l", "wrap" in instruction.modifiers

    def operation(where: bool | Array) -> None:
        n = (amount & np.uint32(31) if wraps else np.minimum(amount, 32)).astype(np.uint64)
        pair = high.astype(np.uint64) << np.uint64(32) | low
        shifted = (pair << n) >> np.uint64(32) if left else pair >> n
        assign(out, shifted.astype(np.uint32), where)

    return operation


def extract_bits(instruction: Instruction, machine: Machine) -> Operation:
    """``bfe``: ``length`` bits from ``position``, extended by zeros or by their highest bit."""
    type_ = instruction.type
    out = machine.target(instruction.operands[0], type_)
    a = machine.source(instruction.operands[1], type_)
    position, length = (machine.source(o, "u32") for o in instruction.operands[2:])
    bits, unsigned = 8 * a.dtype.itemsize, np.dtype(f"u{a.dtype.itemsize}")

    def operation(where: bool | Array) -> None:
        begin = np.minimum(position & np.uint32(255), bits)
        end = np.minimum(begin + (length & np.uint32(255)), bits)
        if type_[0] == "s":
            # shift left until the field's highest bit is the sign, and back with the sign
            field_ends = (bits - end).astype(a.dtype)
            kept = np.minimum(bits - (end - begin), bits - 1).astype(a.dtype)
            result = np.where(end == begin, a.dtype.type(0), (a << np.minimum(field_ends, bits - 1)) >> kept)
        else:
            kept = np.minimum(bits - (end - begin), bits - 1).astype(unsigned)
            all_bits = unsigned.type((1 << bits) - 1)
            shifted = a >> np.minimum(begin, bits - 1).astype(unsigned)
            result = np.where(end == begin, unsigned.type(0), shifted & (all_bits >> kept))
        assign(out, result, where)

    return operation


def insert_bits(instruction: Instruction, machine: Machine) -> Operation:
    """``bfi``: the low ``length`` bits of ``a`` replace those of ``b`` from ``position`` on."""
    type_ = f"u{instruction.type[1:]}"
    out = machine.target(instruction.operands[0], type_)
    a, b = (machine.source(o, type_) for o in instruction.operands[1:3])
    position, length = (machine.source(o, "u32") for o in instruction.operands[3:])
    bits, one = 8 * a.dtype.itemsize, a.dtype.type(1)

    def operation(where: bool | Array) -> None:
        begin = np.minimum(position & np.uint32(255), bits)
        count = np.minimum(length & np.uint32(255), bits - begin)
        partly = (one << np.minimum(count, bits - 1).astype(a.dtype)) - one
        mask = np.where(count == bits, a.dtype.type((1 << bits) - 1), partly)
        at = np.minimum(begin, bits - 1).astype(a.dtype)
        mask = np.where(begin == bits, a.dtype.type(0), mask << at)
        assign(out, (b & ~mask) | ((a << at) & mask), where)

    return operation


def _bits_of(a: Array) -> Array:
    """The bits of each element, highest first: ``[T, bits]``."""
    big_endian = np.ascontiguousarray(a).astype(a.dtype.newbyteorder(">"))
    return np.unpackbits(big_endian.view(np.uint8).reshape(a.size, -1), axis=1)


def _population(a: Array) -> Array:
    return _bits_of(a).sum(1, dtype=np.uint32)


def _leading_zeros(a: Array) -> Array:
    bits = _bits_of(a)
    return np.where(bits.any(1), bits.argmax(1), bits.shape[1]).astype(np.uint32)


def _reverse(a: Array) -> Array:
    return np.packbits(_bits_of(a)[:, ::-1], axis=1).view(a.dtype.newbyteorder(">"))[:, 0].astype(a.dtype)


def count_bits(function: Callable[[Array], Array]) -> Builder:
    """An operator whose result has 32 bits whatever its operand has."""

    def build(instruction: Instruction, machine: Machine) -> Operation:
        out = machine.target(instruction.operands[0], "u32")
        a = machine.source(instruction.operands[1], f"u{instruction.type[1:]}")
        return lambda where: assign(out, function(a), where)

    return build


def permute_bytes(instruction: Instruction, machine: Machine) -> Operation:
    """``prmt`` in its default mode: each nibble of the selector names one of eight bytes, or the sign of it."""
    if instruction.modifiers != ("b32",):
        raise NotImplementedError(str(instruction))
    out = machine.target(instruction.operands[0], "u32")
    a, b, selector = (machine.source(o, "u32") for o in instruction.operands[1:])

    def operation(where: bool | Array) -> None:
        pair = b.astype(np.uint64) << np.uint64(32) | a
        result = np.zeros(np.broadcast(pair, selector).shape, np.uint32)
        for k in range(4):
            nibble = (selector >> np.uint32(4 * k)) & np.uint32(15)
            byte = (pair >> (np.uint64(8) * (nibble & np.uint32(7)))).astype(np.uint32) & np.uint32(255)
            sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            result |= np.where(nibble & np.uint32(8), sign, byte) << np.uint32(8 * k)
        assign(out, result, where)

    return operation


def logic_of_three(instruction: Instruction, machine: Machine) -> Operation:
    """``lop3``: the table says the result for each of the eight combinations of three bits."""
    out = machine.target(instruction.operands[0], "u32")
    a, b, c, table = (machine.source(o, "u32") for o in instruction.operands[1:])

    def operation(where: bool | Array) -> None:
        result = np.zeros(1, np.uint32)
        for row in range(8):
            if int(table[0]) >> row & 1:
                terms = [x if row >> bit & 1 else ~x for x, bit in ((a, 2), (b, 1), (c, 0))]
                result = result | (terms[0] & terms[1] & terms[2])
        assign(out, result, where)

    return operation


def is_integer(instruction: Instruction) -> bool:
    return dtype_of(instruction.type).kind in "iu" and instruction.type[0] in "sub" and instruction.type[:2] != "bf"


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
    "and": ufunc(np.bitwise_and),
    "or": ufunc(np.bitwise_or),
    "xor": ufunc(np.bitwise_xor),
    "not": ufunc(np.invert),
    "shl": shift,
    "shr": shift,
    "shf": funnel_shift,
    "bfe": extract_bits,
    "bfi": insert_bits,
    "popc": count_bits(_population),
    "clz": count_bits(_leading_zeros),
    "brev": elementwise(_reverse),
    "prmt": permute_bytes,
    "lop3": logic_of_three,
}
