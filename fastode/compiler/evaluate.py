"""What a field program means, in plain torch: the reference that every engine is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .elementwise import ELEMENTWISE
from .program import Program


def evaluate(
    program: Program,
    t: Tensor | float,
    y: Tensor,
    arguments: Sequence[Tensor] = (),
    constants: Sequence[Tensor] = (),
    cotangent: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The outputs of ``program``; differentiable in everything.

    Args:
        t: 0-dim or [B]; the time of each row.
        y: [B, state_width].
        arguments: [B, width] each; per-row arguments.
        constants: vectors and matrices, see :class:`fastode.compiler.constants.Constants`.
        cotangent: [B, width]; of the output, for a derived program.

    Returns:
        [B, width] each.
    """
    rows = y.shape[0]
    values: list[Tensor] = []
    for op in program.ops:
        x = [values[i] for i in op.inputs]
        match op.name:
            case "time":
                value = torch.as_tensor(t, dtype=y.dtype, device=y.device).reshape(-1, 1)
            case "state":
                value = y
            case "argument":
                value = arguments[op.data[0]].reshape(rows, op.width)
            case "vector":
                value = constants[op.data[0]].reshape(1, op.width)
            case "literal":
                value = torch.full((1, 1), op.data[0], dtype=y.dtype, device=y.device)
            case "affine":
                index, transposed = op.data
                matrix = constants[index]
                value = x[0] @ (matrix if transposed else matrix.T)
                if len(x) == 2:
                    value = value + x[1]
            case "gather":
                count = next((v.shape[0] for v in x if v.shape[0] != 1), 1)
                value = torch.stack([x[k][:, i].expand(count) for k, i in op.data], 1)
            case "cotangent":
                assert cotangent is not None
                value = cotangent
            case "rows_sum":
                value = x[0].expand(rows, op.width).sum(0, keepdim=True)
            case "sum":
                value = x[0].reshape(x[0].shape[0], op.width, x[0].shape[1] // op.width).sum(2)
            case "lookup":
                value = _lookup(x[0], x[1], op.width)
            case "scatter":
                value = _scatter(x[0], x[1], op.width)
            case _:
                value = ELEMENTWISE[op.name].torch(*x, *op.data)
                value = value.expand(value.shape[0], op.width)
        values.append(value)
    return tuple(values[v].expand(rows, program.ops[v].width) for v in program.outputs)


def _lookup(x: Tensor, number: Tensor, width: int) -> Tensor:
    groups = x.reshape(x.shape[0], x.shape[1] // width, width)
    group, found = _group_of(number, groups.shape[1])
    rows = number.shape[0] if x.shape[0] == 1 else x.shape[0]
    picked = groups.expand(rows, -1, -1).gather(1, group[:, :, None].expand(rows, 1, width))[:, 0]
    return torch.where(found, picked, torch.nan)


def _scatter(x: Tensor, number: Tensor, width: int) -> Tensor:
    groups = width // x.shape[1]
    group, found = _group_of(number, groups)
    named = (torch.arange(groups, device=x.device) == group) & found
    return torch.where(named[:, :, None], x[:, None, :], 0.0).flatten(1)


def _group_of(number: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Which of ``groups`` groups numbers [n, 1] name, and whether they name one."""
    number = torch.where(number < 0, number + groups, number)
    found = (number >= 0) & (number < groups)
    return torch.where(found, number, 0.0).long(), found
