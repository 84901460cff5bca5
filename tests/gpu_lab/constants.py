"""Finds float32 where a kernel on float64 loses digits: Triton takes a Python float for a float32.

Reads the TTIR, where a value is ``%name = operation operands : types``. The compiler may have widened a constant
already; then it is a float64 that has the digits of a float32, such as 0.69999998807907104 for 0.7.
"""

from __future__ import annotations

import re

import numpy as np

_VALUE = re.compile(r"^\s*(%[\w.#]+)(?::\d+)? = (\S+) (.*)$")
_ARGUMENT = re.compile(r"(%\w+): (\S+?)[ ,)]")
_CONSTANT = re.compile(r"(?:dense<)?(-?[\d.]+(?:e[+-]?\d+)?)>? : (?:tensor<[\dx]*)?f64")
_SHORT_BITS = 16


def float32_in_float64(ttir: str) -> list[str]:
    """The lines, without their locations, that bring float32 digits into a kernel with pointers to float64.

    These are constants rounded to float32, and widenings of float32 values that stem from constants and scalar
    arguments alone. Where all pointers to floats are to float64, every float32 constant and every narrowing counts too.
    """
    pointers = set(re.findall(r"!tt\.ptr<(f\d+|bf16)>", ttir))
    if "f64" not in pointers:
        return []
    only_doubles = pointers == {"f64"}
    head = next((line for line in ttir.splitlines() if "tt.func public" in line), "")
    short = {name for name, type_ in _ARGUMENT.findall(head) if type_ == "f32"}
    found = []
    for line in ttir.splitlines():
        line = re.sub(r"\s+loc\(.*$", "", line)
        value = _VALUE.match(line)
        if value is None:
            continue
        name, operation, rest = value.groups()
        operands, type_ = set(re.findall(r"%[\w.#]+", rest)), _result_type(rest)
        widens = operation == "arith.extf" and type_ == "f64" and operands <= short
        narrows = operation == "arith.truncf" and only_doubles
        if operation == "arith.constant":
            if type_ == "f32":
                short.add(name)
            if (type_ == "f32" and only_doubles) or (type_ == "f64" and _rounded_to_float32(rest)):
                found.append(line.strip())
        elif widens or narrows:
            found.append(line.strip())
        elif type_ == "f32" and operands & short and operation != "tt.load":
            short.add(name)
    return found


def _result_type(text: str) -> str:
    """The type of the elements of what an operation returns, which its line ends with."""
    last = re.findall(r"(?:tensor<[\dx]*)?(f64|f32|f16|bf16|i\d+|!tt\.ptr<\w+>)>?\)?$", text.strip())
    return last[-1] if last else ""


def _rounded_to_float32(constant: str) -> bool:
    """Whether a float64 has the bits of a float32, and so many that it is not a number such as 0.5 or 1e4 by itself."""
    found = _CONSTANT.search(constant)
    if found is None:
        return False
    value = float(found[1])
    with np.errstate(over="ignore"):
        near = np.float32(value)
    if float(near) != value:
        return False
    mantissa = int(near.view(np.uint32)) & 0x7FFFFF
    return mantissa & ((1 << (23 - _SHORT_BITS)) - 1) != 0
