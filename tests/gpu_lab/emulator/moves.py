"""Moving and comparing: PTX ISA, sections "Data Movement and Conversion" and "Comparison and Selection"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .fault import EmulationFault
from .integers import Builder
from .machine import Array, Machine, Operation, assign, dtype_of, members
from .memory import LOCAL_WINDOW, SHARED_WINDOW, Addresses, Where
from .program import Address, Group, Instruction, Operand, Symbol
from .races import Races
from .rounding import bfloat16_value


def move(instruction: Instruction, machine: Machine) -> Operation:
    """``mov``: one value, or the parts of a value into registers, or registers into one value."""
    to, of = instruction.operands
    if isinstance(to, Group):
        return _unpack(instruction, machine, to)
    if isinstance(of, Group):
        return _pack(instruction, machine, of)
    out, a = machine.target(to, instruction.type), machine.source(of, instruction.type)
    return lambda where: assign(out, a, where)


def _unpack(instruction: Instruction, machine: Machine, to: Group) -> Operation:
    bits = int(instruction.type[1:])
    part = bits // len(to.members)
    a = machine.source(instruction.operands[1], f"u{bits}")
    outs = [machine.target(m, f"u{part}") for m in to.members]

    def operation(where: Where) -> None:
        whole = a.copy()
        for k, out in enumerate(outs):
            assign(out, (whole >> a.dtype.type(k * part)).astype(out.dtype), where)

    return operation


def _pack(instruction: Instruction, machine: Machine, of: Group) -> Operation:
    bits = int(instruction.type[1:])
    part = bits // len(of.members)
    out = machine.target(instruction.operands[0], f"u{bits}")
    parts = [machine.source(m, f"u{part}") for m in of.members]

    def operation(where: Where) -> None:
        whole = parts[0].astype(out.dtype)
        for k, a in enumerate(parts[1:], 1):
            whole = whole | a.astype(out.dtype) << out.dtype.type(k * part)
        assign(out, whole, where)

    return operation


def convert_address(instruction: Instruction, machine: Machine) -> Operation:
    """``cvta``: between addresses in one memory and generic ones. Global addresses are generic."""
    out, a = machine.target(instruction.operands[0], "u64"), machine.source(instruction.operands[1], "u64")
    windows = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "global": 0, "const": 0}
    named = [m for m in instruction.modifiers if m in windows]
    if instruction.type != "u64" or len(named) != 1:
        raise NotImplementedError(str(instruction))
    window = np.uint64(windows[named[0]])
    if "to" in instruction.modifiers:
        return lambda where: assign(out, a - window, where)
    return lambda where: assign(out, a + window, where)


def load(instruction: Instruction, machine: Machine) -> Operation:
    """``ld``: one element or a vector of neighbours for each lane."""
    if "param" in instruction.modifiers:
        return _load_parameter(instruction, machine)
    memory, address = machine.memory(instruction), machine.addresses(instruction.operands[1])
    outs = [machine.target(m, instruction.type) for m in members(instruction.operands[0])]
    dtype, count = dtype_of(instruction.type), len(outs)

    def operation(where: Where) -> None:
        addresses = address()
        values = memory.load(addresses, where, dtype, count, instruction)
        if machine.races is not None and memory is machine.global_:
            machine.races.load(addresses, where, dtype.itemsize * count, instruction)
        for out, value in zip(outs, values, strict=True):
            out[... if where is True else where] = value

    return operation


def _load_parameter(instruction: Instruction, machine: Machine) -> Operation:
    address = instruction.operands[1]
    if not isinstance(address, Address) or not isinstance(address.base, Symbol):
        raise NotImplementedError(str(instruction))
    dtype = dtype_of(instruction.type)
    outs = [machine.target(m, instruction.type) for m in members(instruction.operands[0])]
    begin = machine.parameter_offsets[address.base.name] + address.offset
    bytes_ = [machine.parameters[begin + k * dtype.itemsize :][: dtype.itemsize] for k in range(len(outs))]

    def operation(where: Where) -> None:
        for out, value in zip(outs, bytes_, strict=True):
            assign(out, value.view(dtype), where)

    return operation


def store(instruction: Instruction, machine: Machine) -> Operation:
    """``st``: one element or a vector of neighbours for each lane."""
    memory, address = machine.memory(instruction), machine.addresses(instruction.operands[0])
    sources = [machine.source(m, instruction.type) for m in members(instruction.operands[1])]
    every = [np.broadcast_to(a, machine.threads) for a in sources]

    def operation(where: Where) -> None:
        addresses = address()
        values = every if where is True else [a[where] for a in every]
        if machine.races is not None and memory is machine.global_:
            _watched_store(machine, machine.races, addresses, where, values, instruction)
        else:
            memory.store(addresses, where, values, instruction)

    return operation


def _watched_store(
    machine: Machine, races: Races, addresses: Addresses, where: Where, values: list[Array], instruction: Instruction
) -> None:
    """A store to global memory that knows what it changes, and whether one of its lanes undoes another's."""
    dtype, count = values[0].dtype, len(values)
    counted = machine.global_.loaded
    before = machine.global_.load(addresses, where, dtype, count, instruction)
    machine.global_.store(addresses, where, values, instruction)
    after = machine.global_.load(addresses, where, dtype, count, instruction)
    machine.global_.loaded = counted
    if any((_as_bits(new) != _as_bits(now)).any() for new, now in zip(values, after, strict=True)):
        raise EmulationFault(f"a race: two threads store different values to one address at once, {instruction}")
    changed = np.zeros(machine.threads, bool)
    differs = [_as_bits(old) != _as_bits(new) for old, new in zip(before, values, strict=True)]
    changed[... if where is True else where] = np.logical_or.reduce(differs)
    races.store(addresses, where, dtype.itemsize * count, changed, instruction)


def _as_bits(values: Array) -> Array:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def select(instruction: Instruction, machine: Machine) -> Operation:
    """``selp d, a, b, p``: ``a`` where ``p`` holds, ``b`` elsewhere."""
    bits = f"u{instruction.type[1:]}"
    out = machine.target(instruction.operands[0], bits)
    a, b = (_bits(machine, o, instruction.type) for o in instruction.operands[1:3])
    condition = machine.predicate(instruction.operands[3])
    return lambda where: assign(out, np.where(condition, a, b), where)


def _bits(machine: Machine, operand: Operand, type_: str) -> Array:
    """The operand's bits, also where it is the decimal form of a float."""
    return machine.source(operand, type_).view(f"u{int(type_[1:]) // 8}")


_ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_COMBINED: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def _comparison(name: str, of_floats: bool) -> Callable[[Array, Array], Array]:
    """A comparison. Those of floats are false for a NaN, and true with a ``u`` at the end."""
    if not of_floats:
        return _ORDERED[name]
    if name in ("num", "nan"):
        return lambda a, b: (np.isnan(a) | np.isnan(b)) ^ (name == "num")
    if name == "ne":
        return lambda a, b: (a < b) | (a > b)
    if name in _ORDERED:
        return _ORDERED[name]
    if name == "neu":
        return np.not_equal
    ordered = _ORDERED[name.removesuffix("u")]
    return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)


def compare(instruction: Instruction, machine: Machine) -> Operation:
    """``setp.lt.f32 p, a, b`` and ``setp.lt.and.f32 p|q, a, b, c``; ``q`` is the same of the opposite comparison."""
    type_ = instruction.type
    of_floats = type_[0] == "f" or type_ == "bf16"
    function = _comparison(instruction.modifiers[0], of_floats)
    outs = [machine.target(m, "pred") for m in members(instruction.operands[0])]
    a, b = (machine.source(o, type_) for o in instruction.operands[1:3])
    combined = next((_COMBINED[m] for m in instruction.modifiers[1:] if m in _COMBINED), None)
    other = machine.predicate(instruction.operands[3]) if combined is not None else None
    if "ftz" in instruction.modifiers:
        raise NotImplementedError(str(instruction))

    def operation(where: Where) -> None:
        result = function(a, b) if type_ != "bf16" else function(bfloat16_value(a), bfloat16_value(b))
        for out, holds in zip(outs, (result, ~result), strict=False):
            assign(out, holds if combined is None or other is None else combined(holds, other), where)

    return operation


def nothing(instruction: Instruction, machine: Machine) -> Operation:
    """An instruction that orders or prefetches: blocks and warps execute in order here."""
    return lambda where: None


def cache_policy(instruction: Instruction, machine: Machine) -> Operation:
    """``createpolicy``: a hint to caches, of which there are none here."""
    out = machine.target(instruction.operands[0], "u64")
    return lambda where: assign(out, np.zeros(1, np.uint64), where)


OPERATIONS: dict[str, Builder] = {
    "mov": move,
    "cvta": convert_address,
    "ld": load,
    "ldu": load,
    "st": store,
    "selp": select,
    "setp": compare,
    "membar": nothing,
    "fence": nothing,
    "prefetch": nothing,
    "discard": nothing,
    "griddepcontrol": nothing,
    "createpolicy": cache_policy,
}
