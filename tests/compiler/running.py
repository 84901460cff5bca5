"""Runs field programs on the native engine and by torch, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastode.compiler.engine import Job, Lowered
from fastode.compiler.evaluate import evaluate
from fastode.compiler.program import Builder, Program
from fastode.compiler.steps import GridSteps
from fastode.methods import lookup


def as_quadrature(program: Program) -> Program:
    """A field that does not move the state and integrates the program's value beside it."""
    b = Builder.of(program)
    (out,) = program.outputs
    zero = b.literal(0.0)
    still = [(zero, 0)] * program.state_width
    return b.program(b.gather([*still, *((out, i) for i in range(b.width(out)))]))


def native(
    program: Program,
    t: float,
    y: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    cotangent: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The value [B, width], and the gradients of ``(value * cotangent).sum()``.

    One Euler step of size 1 from 0 is the value itself.
    """
    lowered = Lowered(as_quadrature(program), tuple(tuple(c.shape) for c in constants))
    rows, features = y.shape[0], lowered.features
    start = torch.cat([y, y.new_zeros(rows, features - y.shape[1])], 1)
    steps = GridSteps([t, t + 1.0], [0], [1.0])
    job = Job(lowered, lookup("euler"), "euler", [t + 1.0], steps, False, rows, features)
    out, record = job.run(start, arguments, constants, keep=cotangent is not None)
    grads: list[Tensor] = []
    if cotangent is not None:
        seed = torch.cat([torch.zeros_like(y), cotangent], 1)[None].contiguous()
        wanted = [True] * (len(arguments) + len(constants))
        grad_y0, others = job.sweep(record, seed, start, arguments, constants, wanted)
        grads = [grad_y0[:, : y.shape[1]], *(g for g in others if g is not None)]
    return out[0][:, y.shape[1] :], grads


def by_torch(
    program: Program,
    t: float,
    y: Tensor,
    arguments: Sequence[Tensor],
    constants: Sequence[Tensor],
    cotangent: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """The same from the reference and autograd."""
    inputs = [x.detach().clone().requires_grad_() for x in (y, *arguments, *constants)]
    y, given = inputs[0], inputs[1:]
    (value,) = evaluate(program, t, y, given[: len(arguments)], given[len(arguments) :])
    found = (
        torch.autograd.grad(value, inputs, cotangent, allow_unused=True)
        if value.requires_grad
        else [None] * len(inputs)
    )
    grads = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
    return value.detach(), grads


def assert_close(a: Tensor, b: Tensor, tolerance: float, what: str = "") -> None:
    """Equal within ``tolerance`` of the largest element; NaN where NaN."""
    finite = b.isfinite()
    scale = 1.0 + (b[finite].abs().max().item() if bool(finite.any()) else 0.0)
    torch.testing.assert_close(
        a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )
