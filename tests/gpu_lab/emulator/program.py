"""What a PTX file says, as data: instructions with their operands, functions, tables and shared arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Register:
    """A register declared by ``.reg``; ``_``, which takes a result that nobody reads, has the name ``"_"``."""

    name: str


@dataclass(frozen=True)
class Special:
    """A register that the hardware sets, such as ``%tid.x``."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A number. ``float_bits`` is 32 or 64 where the text gives the bits of a float (``0f...``, ``0d...``)."""

    value: int
    float_bits: int = 0


@dataclass(frozen=True)
class Symbol:
    """The name of a table, an array in shared or local memory, a parameter, a label or a function."""

    name: str


@dataclass(frozen=True)
class Address:
    """``[base + offset]``."""

    base: Register | Symbol | Immediate
    offset: int


@dataclass(frozen=True)
class Group:
    """``{a, b}``, ``(a, b)`` or ``p|q``: several operands that are one."""

    members: tuple[Operand, ...]


Operand = Register | Special | Immediate | Symbol | Address | Group


@dataclass(frozen=True)
class Instruction:
    """``@guard opcode.modifiers operands;``

    Attributes:
        line: the line of the PTX text, from 1.
        guard: the predicate under which lanes execute it, and whether the predicate is negated; None for all lanes.
    """

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: tuple[Register, bool] | None
    line: int
    text: str

    @property
    def type(self) -> str:
        """The last modifier, which for most instructions is the type of the operands: ``f32``."""
        return self.modifiers[-1] if self.modifiers else ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True)
class Variable:
    """A parameter, a table or an array: its bytes, their alignment, and what a table holds in the beginning."""

    name: str
    type: str
    size: int
    align: int
    initial: bytes | None = None


@dataclass
class Function:
    """A kernel (``.entry``) or a device function (``.func``).

    Attributes:
        registers: the PTX type (``b32``, ``pred``) of every declared register.
        labels: the position in ``code`` that a label stands for.
        local: arrays of every thread's own (``.local``), and the parameters of its calls.
        shared: arrays of the block declared within the function.
        threads: the number of threads that ``.reqntid`` asks for; None where it does not.
    """

    name: str
    parameters: list[Variable]
    results: list[Variable]
    threads: int | None = None
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    local: list[Variable] = field(default_factory=list)
    shared: list[Variable] = field(default_factory=list)


@dataclass(frozen=True)
class Module:
    """A PTX file: its functions, its one kernel, its tables (``.global``, ``.const``) and its shared arrays.

    The size of an ``.extern`` shared array is 0: the launch decides it.
    """

    entry: Function
    functions: Mapping[str, Function]
    tables: list[Variable]
    shared: list[Variable]
