"""Names and operands within a function's body. A scope in braces may declare a name that is in use outside of it."""

from __future__ import annotations

import re

from .program import Address, Function, Group, Immediate, Operand, Register, Special, Symbol

_FLOAT = re.compile(r"0([fFdD])([0-9A-Fa-f]+)$")
_INTEGER = re.compile(r"-?(?:0[xX][0-9A-Fa-f]+|\d+)U?$")
_SPECIAL = re.compile(
    r"%(?:tid|ntid|ctaid|nctaid|laneid|warpid|nwarpid|smid|clock|clock64|globaltimer\w*|lanemask_\w+|cluster\w+)"
    r"(?:\.[xyz])?$"
)


class Scopes:
    """Gives every declared name of a function a name of its own, and reads operands with them."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._scopes: list[dict[str, str]] = [{}]
        self._arrays: set[str] = set()
        self._made = 0

    def enter(self) -> None:
        self._scopes.append({})

    def leave(self) -> None:
        self._scopes.pop()

    def label(self, name: str) -> None:
        """Marks the next instruction. Labels are the function's and not the scope's: branches may come before them."""
        if name in self._function.labels:
            raise ValueError(f"label `{name}` of `{self._function.name}` marks two instructions.")
        self._function.labels[name] = len(self._function.code)

    def declare_array(self, name: str) -> str:
        own = self.declare(name)
        self._arrays.add(own)
        return own

    def declare(self, name: str) -> str:
        """The name by which ``name`` of the innermost scope goes from here on."""
        own = name
        if len(self._scopes) > 1:
            self._made += 1
            own = f"{name}#{self._made}"
        self._scopes[-1][name] = own
        return own

    def declare_register(self, name: str, type_: str) -> None:
        """Declares ``name``, or all of ``%r<10>``."""
        family = re.match(r"(.*)<(\d+)>$", name)
        if family is None:
            self._function.registers[self.declare(name)] = type_
            return
        for i in range(int(family[2])):
            self._function.registers[self.declare(f"{family[1]}{i}")] = type_

    def register(self, name: str) -> Register:
        found = self.operand(name)
        if not isinstance(found, Register):
            raise ValueError(f"`{name}` is not a register.")
        return found

    def operands(self, text: str) -> tuple[Operand, ...]:
        """The operands in ``d|p, {a, b}, [c + 4], 1``."""
        parts, depth, begin = [], 0, 0
        for i, character in enumerate(text):
            depth += (character in "{[(") - (character in "}])")
            if character == "," and depth == 0:
                parts.append(text[begin:i])
                begin = i + 1
        parts.append(text[begin:])
        return tuple(self.operand(part.strip()) for part in parts if part.strip())

    def operand(self, text: str) -> Operand:
        if text[0] in "{(":
            return Group(self.operands(text[1:-1]))
        if text[0] == "[":
            base, _, offset = text[1:-1].partition("+")
            inner = self.operand(base.strip())
            if not isinstance(inner, Register | Symbol | Immediate):
                raise ValueError(f"`{text}` is not an address.")
            return Address(inner, int(offset.strip() or "0", 0))
        if "|" in text:
            return Group(tuple(self.operand(part.strip()) for part in text.split("|")))
        if text == "_":
            return Register("_")
        if bits := _FLOAT.match(text):
            return Immediate(int(bits[2], 16), 32 if bits[1] in "fF" else 64)
        if _INTEGER.match(text):
            return Immediate(int(text.rstrip("U"), 0))
        own = next((scope[text] for scope in reversed(self._scopes) if text in scope), text)
        if own in self._function.registers:
            return Register(own)
        if _SPECIAL.match(text):
            return Special(text)
        if text.startswith("%"):
            raise ValueError(f"register `{text}` is used and not declared.")
        return Symbol(own if own in self._arrays else text)
