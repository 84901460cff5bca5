"""What a field becomes, or why it cannot be compiled, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CannotCompile, FieldError, InvalidArgument
from ..field import is_per_row
from ..problem import check_state
from .constants import Constants
from .packing import ROWS_DIFFER, Packed, packings
from .program import LEAVES, Kind, Op, Program, kinds
from .trace import Traced, trace

#: written between their inputs
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}
_INFIX |= {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_MOST_GUESSED = 16


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``print`` it.

    Attributes:
        compiles: whether there is a program.
        reason: why not.
        program: the program.
    """

    compiles: bool
    reason: str | None
    program: Program | None
    text: str

    def __str__(self) -> str:
        return self.text


def explain(func: Callable[..., Any], y0: Any = None, *args: Any, t: float | Tensor = 0.0) -> Explanation:
    """The program of ``func(t, y, *args)``, or why there is none.

    Args:
        y0: [B, ...], one state [N], or a structure of such parts, whose features ``y`` has one after the other;
            ``None`` for a module whose layers tell how many features a state has.
        args: further arguments; tensors with an entry for each row of ``y0`` are per-row arguments.
        t: 0-dim, or [B] for a field that takes one time for each row.

    Raises:
        InvalidArgument: ``y0`` is needed.
    """
    func = getattr(func, "func", func) if isinstance(func, nn.Module) and hasattr(func, "native") else func
    if y0 is None:
        return _explain_module(func, args)
    if isinstance(y0, Tensor):
        return _explain_state(func, y0, y0.dim() > 1, args, t)
    parts, spec = check_state(y0)
    found = Explanation(False, ROWS_DIFFER, None, ROWS_DIFFER)
    for packing in packings(parts, spec):
        found = _explain_state(Packed(func, packing), packing.pack(parts), packing.batched, args, t)
        if found.compiles:
            break
    return found


def _explain_state(
    func: Callable[..., Any], y0: Tensor, batched: bool, args: tuple[Any, ...], t: float | Tensor
) -> Explanation:
    """For one tensor, whose first axis is one of rows if ``batched``."""
    per_row = [i for i, a in enumerate(args) if batched and is_per_row(a, y0.shape[0])]
    time_per_row = isinstance(t, Tensor) and t.dim() == 1 and batched
    try:
        shape = y0.shape[1:] if batched else y0.shape
        rows = len(y0) if batched and not time_per_row else 0
        traced = trace(func, tuple(shape), batched, time_per_row, y0.dtype, args, per_row, y0.device, rows)
    except CannotCompile as error:
        return Explanation(False, error.reason, None, str(error))
    return Explanation(True, None, traced.program, _text(traced))


def _explain_module(func: Callable[..., Any], args: tuple[Any, ...]) -> Explanation:
    """Tries numbers of features that the module's layers suggest."""
    if not isinstance(func, nn.Module):
        raise InvalidArgument("`y0` is not given; pass a state, such as `explain(func, torch.zeros(1, 2))`")
    linear = [m.in_features for m in func.modules() if isinstance(m, nn.Linear)]
    dtype = next((p.dtype for p in func.parameters() if p.is_floating_point()), torch.get_default_dtype())
    refused: CannotCompile | None = None
    for n in dict.fromkeys([*linear, *[i - 1 for i in linear if i > 1], *range(1, _MOST_GUESSED + 1)]):
        try:
            traced = trace(func, (n,), dtype=dtype, args=args)
            return Explanation(True, None, traced.program, _text(traced))
        except CannotCompile as error:
            # a reason with a line is about an operator, others say that the number of features is wrong
            refused = refused or (error if error.line else None)
        except FieldError:
            continue
    if refused is not None:
        return Explanation(False, refused.reason, None, str(refused))
    raise InvalidArgument(
        f"`y0` is not given, and a {type(func).__name__} does not tell how many features a state has; "
        "pass a state, such as `explain(func, torch.zeros(1, 2))`"
    )


def _text(traced: Traced) -> str:
    program, constants = traced.program, traced.constants
    arguments = [f"argument {i}" for i in traced.per_row] + [place.name for place in traced.held]
    lines = list(_lines(program, constants, arguments))
    used = [f"  {name} {list(shape)}" for name, shape in zip(constants.names, constants.shapes, strict=True)]
    lines += ["", _costs(program)]
    if not traced.differentiable:
        lines.append("derivatives are torch's: the field stops some, or has a backward pass of its own")
    return "\n".join([*lines, *(["constants:", *used] if used else [])])


def _lines(program: Program, constants: Constants, arguments: Sequence[str]) -> Iterator[str]:
    names: list[str] = []
    (out,) = program.outputs
    for v, op in enumerate(program.ops):
        text = _expression(op, [names[i] for i in op.inputs], program, constants, arguments)
        # leaves and single features are written where they are used
        inline = op.name in LEAVES or (op.name == "gather" and "," not in text)
        names.append(f"v{v}" if not inline else text[1:-1] if op.name == "gather" else text)
        if v == out:
            yield f"{'dy/dt = ' + text:<64} [{op.width}]"
        elif not inline:
            yield f"{f'v{v} = ' + text:<64} [{op.width}]"


def _expression(op: Op, inputs: list[str], program: Program, constants: Constants, arguments: Sequence[str]) -> str:
    match op.name:
        case "time":
            return "t"
        case "state":
            return "y"
        case "argument":
            return str(arguments[op.data[0]])
        case "vector":
            return str(constants.names[op.data[0]])
        case "literal":
            return f"{op.data[0]:g}"
        case "affine":
            matrix = constants.names[op.data[0]] + (".T" if op.data[1] else "")
            return f"{matrix} @ {inputs[0]}" + (f" + {inputs[1]}" if len(inputs) == 2 else "")
        case "gather":
            return "[" + ", ".join(_runs(op, inputs, program)) + "]"
        case "sum":
            return f"sum({inputs[0]})"
        case _ if op.name in _INFIX:
            return f"{inputs[0]} {_INFIX[op.name]} {inputs[1]}"
        case _:
            return f"{op.name}({', '.join([*inputs, *[f'{n:g}' for n in op.data]])})"


def _runs(op: Op, inputs: list[str], program: Program) -> Iterator[str]:
    """The features of a gather, those that follow each other as a slice."""
    start = 0
    for end in range(1, len(op.data) + 1):
        k, first = op.data[start]
        if end < len(op.data) and op.data[end] == (k, first + end - start):
            continue
        width = program.ops[op.inputs[k]].width
        last = first + end - start
        if last - first == width:
            yield inputs[k]
        else:
            yield f"{inputs[k]}[{first}]" if last == first + 1 else f"{inputs[k]}[{first}:{last}]"
        start = end


def _costs(program: Program) -> str:
    products = {True: 0, False: 0}
    functions = {True: 0, False: 0}
    for op, kind in zip(program.ops, kinds(program), strict=True):
        of_row = kind == Kind.ROW
        if op.name == "affine":
            products[of_row] += 2 * op.width * program.ops[op.inputs[0]].width
        elif op.name not in (*LEAVES, "gather"):
            functions[of_row] += op.width if op.name != "sum" else program.ops[op.inputs[0]].width
    text = f"for each row: {products[True]} flops of matrix products, {functions[True]} elementwise operations"
    if products[False] or functions[False]:
        text += f"\nonce for all rows: {products[False]} flops, {functions[False]} elementwise operations"
    return text
