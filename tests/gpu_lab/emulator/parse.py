"""Reads PTX text into a :class:`Module`. Reference: NVIDIA, "Parallel Thread Execution ISA", chapters 4 and 5."""

from __future__ import annotations

import re
from bisect import bisect_left

from .program import Function, Instruction, Module, Variable
from .scopes import Scopes

_TYPE_BYTES = {"pred": 1} | {f"{kind}{bits}": bits // 8 for kind in "busf" for bits in (8, 16, 32, 64)}
_VARIABLE = re.compile(
    r"(?:\.(?:ptr|global|shared|const|local)\s+)*(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
    r"(?:\.ptr\s+)?(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?([\w$%]+)\s*(\[(\d*)\])?\s*(?:=\s*(.*))?$",
    re.S,
)
_HEAD = re.compile(r"\.(entry|func)\s*(\([^)]*\))?\s*([\w$]+)\s*(\([^)]*\))?([^{;]*)([{;])")
_MODULE_VARIABLE = re.compile(r"\.(global|const|shared)\s+([^;]*);")
_LABEL = re.compile(r"\s*([$\w]+)\s*:(?!:)")
_STATEMENT = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.S)


def parse(text: str) -> Module:
    """The module that the PTX ``text`` describes.

    Raises:
        ValueError: There is not exactly one kernel, or a part of the text is not understood.
    """
    text = _without_comments(text)
    functions: dict[str, Function] = {}
    entries: list[Function] = []
    outside, position = [], 0
    for head in _HEAD.finditer(text):
        if head.start() < position or head[6] == ";":
            continue
        function = Function(head[3], _variables(head[4]), _variables(head[2]), _threads(head[5]))
        end = _closing_brace(text, head.end())
        _read_body(function, text, head.end(), end)
        outside.append(text[position : head.start()])
        position = end + 1
        functions[function.name] = function
        if head[1] == "entry":
            entries.append(function)
    if len(entries) != 1:
        raise ValueError(f"PTX with {[e.name for e in entries]} as kernels; exactly one is understood.")
    outside.append(text[position:])
    found = list(_MODULE_VARIABLE.finditer("\n".join(outside)))
    tables = [_variable(m[2]) for m in found if m[1] != "shared"]
    shared = [_variable(m[2]) for m in found if m[1] == "shared"]
    return Module(entries[0], functions, tables, shared)


def _without_comments(text: str) -> str:
    """The text without comments, lines for debuggers and sections; every line stays at its number."""
    text = re.split(r"^\s*\.section", text, maxsplit=1, flags=re.M)[0]
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"^\s*\.(?:loc|file|version|target|address_size|pragma)\b[^\n]*", "", text, flags=re.M)


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.start()
    raise ValueError("PTX ends within a function.")


def _threads(directives: str) -> int | None:
    found = re.search(r"\.reqntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", directives)
    if found is None:
        return None
    if any(extent not in (None, "1") for extent in found.groups()[1:]):
        raise ValueError(f"blocks of {found[0].split(None, 1)[1]} threads; only one-dimensional blocks are understood.")
    return int(found[1])


def _variables(text: str | None) -> list[Variable]:
    """The parameters in ``(.param .u64 a, .param .b8 b[16])``."""
    inside = (text or "").strip().strip("()").strip()
    return [_variable(part.strip().removeprefix(".param")) for part in inside.split(",")] if inside else []


def _variable(text: str) -> Variable:
    found = _VARIABLE.match(text.strip())
    if found is None or found[2] not in _TYPE_BYTES:
        raise ValueError(f"the PTX declaration `{' '.join(text.split())}` is not understood.")
    align, type_, name, array, length, initial = found.groups()
    element = _TYPE_BYTES[type_]
    count = 1 if array is None else int(length or 0)
    content = None
    if initial is not None:
        values = [int(v, 0) for v in re.findall(r"-?\w+", initial)]
        content = b"".join((v & ((1 << 8 * element) - 1)).to_bytes(element, "little") for v in values)
        content = content.ljust(count * element, b"\0")
    return Variable(name, type_, count * element, int(align or element), content)


def _read_body(function: Function, text: str, start: int, end: int) -> None:
    """Instructions and declarations between ``start`` and ``end``; braces around statements open scopes."""
    scopes = Scopes(function)
    newlines = [m.start() for m in re.finditer("\n", text)]
    position = start
    while position < end:
        if text[position].isspace() or text[position] == ";":
            position += 1
        elif text[position] == "{":
            scopes.enter()
            position += 1
        elif text[position] == "}":
            scopes.leave()
            position += 1
        elif label := _LABEL.match(text, position, end):
            scopes.label(label[1])
            position = label.end()
        else:
            stop = text.index(";", position)
            statement = " ".join(text[position:stop].split())
            line = bisect_left(newlines, position) + 1
            if statement.startswith("."):
                _declare(function, scopes, statement)
            else:
                function.code.append(_instruction(scopes, statement, line))
            position = stop + 1


def _declare(function: Function, scopes: Scopes, statement: str) -> None:
    directive, rest = statement[1:].split(None, 1)
    if directive == "reg":
        type_, names = rest[1:].split(None, 1)
        for name in names.split(","):
            scopes.declare_register(name.strip(), type_)
    elif directive in ("local", "param", "shared"):
        variable = _variable(rest)
        variable = Variable(scopes.declare_array(variable.name), variable.type, variable.size, variable.align)
        (function.shared if directive == "shared" else function.local).append(variable)
    else:
        raise ValueError(f"the PTX declaration `{statement}` is not understood.")


def _instruction(scopes: Scopes, statement: str, line: int) -> Instruction:
    found = _STATEMENT.match(statement)
    if found is None:
        raise ValueError(f"line {line} of the PTX is not understood: {statement}")
    negated, predicate, name, rest = found.groups()
    opcode, *modifiers = name.split(".")
    guard = None if predicate is None else (scopes.register(predicate), bool(negated))
    return Instruction(opcode, tuple(modifiers), scopes.operands(rest), guard, line, statement)
