"""Bits of integers: PTX ISA, section "Logic and Shift", and ``bfe``, ``bfi``, ``clz``, ``popc``, ``brev``, ``prmt``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .integers import Builder, elementwise, ufunc
from .machine import Array, Machine, Operation, assign
from .program import Instruction


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


OPERATIONS: dict[str, Builder] = {
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
