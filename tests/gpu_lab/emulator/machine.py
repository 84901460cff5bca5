"""A block's state: registers as arrays with one element per thread, memories, parameters, hardware registers.

Operands become views of these arrays once, when an instruction is built; executing it then touches only NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .copies import Copies
from .memory import Addresses, GenericMemory, GlobalMemory, LocalMemory, Memory, Region, Where
from .program import Address, Function, Group, Immediate, Instruction, Module, Operand, Register, Special, Symbol
from .races import Races

Array = NDArray[Any]
Operation = Callable[[Where], object]
WARP = 32

_KINDS = {"b": "u", "u": "u", "s": "i", "f": "f"}


@lru_cache
def dtype_of(type_: str) -> np.dtype[Any]:
    """The NumPy type that holds a PTX type; ``bf16`` and ``tf32`` are held as their bits.

    Raises:
        NotImplementedError: There is no such number here (``b128``, ``e4m3x2``).
    """
    if type_ == "pred":
        return np.dtype(np.bool_)
    if type_ in ("bf16", "tf32"):
        return np.dtype(np.uint16 if type_ == "bf16" else np.uint32)
    if type_[:1] in _KINDS and type_[1:] in ("8", "16", "32", "64") and type_ != "f8":
        return np.dtype(f"{_KINDS[type_[0]]}{int(type_[1:]) // 8}")
    raise NotImplementedError(f"numbers of the PTX type `.{type_}`")


class Machine:
    """Executes the blocks of one kernel, one after another.

    Attributes:
        code: the kernel, without calls.
        carry: the carry flag of every thread, for additions of several words.
        races: watches accesses to global memory; None where nobody asked for that.
        parameters: the bytes of the kernel's parameters, at the offsets in ``parameter_offsets``.
    """

    def __init__(self, module: Module, code: Function, threads: int, dynamic_shared_bytes: int) -> None:
        self.code, self.threads = code, threads
        self.lane = np.arange(threads, dtype=np.uint32) % WARP
        self.carry = np.zeros(threads, bool)
        self._registers = self._make_registers()
        self.symbols: dict[str, int] = {}
        self.global_ = GlobalMemory()
        for table in module.tables:
            content = np.frombuffer(bytearray(table.initial or bytes(table.size)), np.uint8)
            self.symbols[table.name] = self.global_.place(f"table {table.name}", content, table.initial is None)
        self.tables = len(module.tables)
        self.shared = self._make_shared(module, dynamic_shared_bytes)
        self.local = self._make_local()
        self.generic = GenericMemory(self.global_, self.shared, self.local)
        self.parameter_offsets = self._lay_out_parameters()
        self.parameters = np.zeros(max(self._parameter_bytes, 1), np.uint8)
        self.special = self._make_special()
        self.copies = Copies()
        self.races: Races | None = None

    def _make_registers(self) -> dict[str, Array]:
        bits = {name: type_ if type_ == "pred" else f"b{type_[1:]}" for name, type_ in self.code.registers.items()}
        widths = {name: dtype_of(type_) for name, type_ in bits.items()}
        self._pools: list[Array] = []
        registers: dict[str, Array] = {}
        for dtype in sorted(set(widths.values()), key=str):
            names = [name for name, width in widths.items() if width == dtype]
            pool = np.zeros((len(names), self.threads), dtype)
            self._pools.append(pool)
            registers |= dict(zip(names, pool, strict=True))
        return registers

    def _make_shared(self, module: Module, dynamic_bytes: int) -> Memory:
        """Static arrays first, then the one whose size the launch decides."""
        end = 0
        for variable in sorted((*module.shared, *self.code.shared), key=lambda v: v.size == 0):
            begin = -(-end // variable.align) * variable.align
            self.symbols[variable.name] = begin
            end = begin + (variable.size or dynamic_bytes)
        memory = Memory()
        memory.add(Region("shared memory of the block", 0, np.zeros(end, np.uint8)))
        return memory

    def _make_local(self) -> LocalMemory:
        end = 0
        for variable in self.code.local:
            begin = -(-end // variable.align) * variable.align
            self.symbols[variable.name] = begin
            end = begin + variable.size
        return LocalMemory(end, self.threads)

    def _lay_out_parameters(self) -> dict[str, int]:
        offsets, end = {}, 0
        for parameter in self.code.parameters:
            offsets[parameter.name] = -(-end // parameter.align) * parameter.align
            end = offsets[parameter.name] + parameter.size
        self._parameter_bytes = end
        return offsets

    def _make_special(self) -> dict[str, NDArray[np.uint32]]:
        zero = np.zeros(self.threads, np.uint32)
        index = np.arange(self.threads, dtype=np.uint32)
        special = {"%tid.x": index, "%tid.y": zero, "%tid.z": zero, "%laneid": self.lane, "%warpid": index // WARP}
        for axis in "xyz":
            special[f"%ctaid.{axis}"] = np.zeros(1, np.uint32)
            special[f"%nctaid.{axis}"] = np.ones(1, np.uint32)
            special[f"%ntid.{axis}"] = np.array([self.threads if axis == "x" else 1], np.uint32)
        return special

    def start_block(self, index: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
        """Registers, shared and local memory start with all bits set: NaN as a float, -1 as an integer."""
        for pool in self._pools:
            pool.view(np.uint8)[...] = 0xFF if pool.dtype != np.bool_ else 0
        for memory in (self.shared, self.local):
            memory.regions[0].content[...] = 0xFF
        self.copies.forget()
        if self.races is not None:
            self.races.start_block()
        for axis, i, n in zip("xyz", index, grid, strict=True):
            self.special[f"%ctaid.{axis}"][...] = i
            self.special[f"%nctaid.{axis}"][...] = n

    def barrier(self) -> None:
        """All threads of the block have met."""
        if self.races is not None:
            self.races.barrier()

    def predicate(self, operand: Operand) -> NDArray[np.bool_]:
        return self.source(operand, "pred")

    def source(self, operand: Operand, type_: str) -> Array:
        """The operand's values as ``type_``: for registers a view, wider ones by their low bits."""
        dtype = dtype_of(type_)
        match operand:
            case Register("_"):
                raise ValueError("`_` is read.")
            case Register(name):
                return _low_part(self._registers[name], dtype)
            case Special(name) if name in self.special:
                return _low_part(self.special[name], dtype)
            case Immediate(value, float_bits):
                return _constant(value, float_bits, dtype)
            case Symbol(name) if name in self.symbols:
                return _constant(self.symbols[name], 0, dtype)
        raise NotImplementedError(f"the operand {operand} as `.{type_}`")

    def target(self, operand: Operand, type_: str) -> Array:
        """The array to write a result of ``type_`` into; a wider register takes it extended, as ``ld`` asks for."""
        dtype = dtype_of(type_)
        if not isinstance(operand, Register):
            raise NotImplementedError(f"a result in {operand}")
        if operand.name == "_":
            return np.empty(self.threads, dtype)
        register = self._registers[operand.name]
        if register.dtype.itemsize == dtype.itemsize:
            return register.view(dtype)
        if register.dtype.itemsize < dtype.itemsize or dtype.kind == "f":
            raise NotImplementedError(
                f"a result of type `.{type_}` in a register of {8 * register.dtype.itemsize} bits"
            )
        return register.view(f"{dtype.kind}{register.dtype.itemsize}")

    def addresses(self, operand: Operand) -> Callable[[], Addresses]:
        """The address of every thread. Registers of 32 bits hold addresses in shared or local memory."""
        if not isinstance(operand, Address):
            raise NotImplementedError(f"an address {operand}")
        offset = np.array([operand.offset], np.int64).view(np.uint64)
        if isinstance(operand.base, Register):
            base = self._registers[operand.base.name].view()
            return lambda: base + offset
        fixed = np.broadcast_to(self.source(operand.base, "u64") + offset, self.threads)
        return lambda: fixed

    def memory(self, instruction: Instruction) -> Memory:
        """The memory that an instruction names among its modifiers; the generic one where it names none."""
        for modifier in instruction.modifiers:
            space = modifier.split("::")[0]
            if space in ("global", "const"):
                return self.global_
            if space == "shared":
                if modifier == "shared::cluster":
                    raise NotImplementedError(f"memory of a cluster, {instruction}")
                return self.shared
            if space == "local":
                return self.local
        return self.generic


def assign(out: Array, value: Array, where: Where) -> None:
    """``out[where] = value[where]``, cast to the type of ``out``."""
    if where is True:
        out[...] = value
    else:
        np.copyto(out, value, where=where, casting="unsafe")


def members(operand: Operand) -> tuple[Operand, ...]:
    """The parts of a group, or the operand itself."""
    return operand.members if isinstance(operand, Group) else (operand,)


def _low_part(register: Array, dtype: np.dtype[Any]) -> Array:
    if register.dtype.itemsize < dtype.itemsize:
        raise NotImplementedError(f"{8 * register.dtype.itemsize} bits of a register read as {dtype}")
    return register.view(dtype)[:: register.dtype.itemsize // dtype.itemsize]


def _constant(value: int, float_bits: int, dtype: np.dtype[Any]) -> Array:
    """One element, of the given bits, or of the value that the bits of a float stand for."""
    if float_bits and dtype.kind == "f":
        bits = np.array([value], f"u{float_bits // 8}")
        return bits.view(f"f{float_bits // 8}").astype(dtype)
    if dtype == np.bool_:
        return np.array([bool(value)])
    return np.array([value & ((1 << 8 * dtype.itemsize) - 1)], f"u{dtype.itemsize}").view(dtype)
