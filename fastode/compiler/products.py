"""Products with matrices, sums and extremes of traced tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .codes import CONSTANT
from .lookups import bucketize, searchsorted
from .reductions import REDUCTIONS

if TYPE_CHECKING:
    from .tracer import Tracer

#: products of one row where both matrices vary, or numbers of a convolution's matrix; beyond, a program is no help
_MOST_TERMS = 1 << 16


def total(tracer: Tracer, x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Tensor:
    """``x.sum(dim)``."""
    return _summed(tracer, torch.ops.aten.sum.dim_IntList, x, dim, keepdim, lambda v, n: v)


def mean(tracer: Tracer, x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Tensor:
    """``x.mean(dim)``."""

    def divided(v: int, n: int) -> int:
        return tracer.builder.elementwise("div", v, tracer.builder.literal(n))

    return _summed(tracer, torch.ops.aten.mean.dim, x, dim, keepdim, divided)


def _summed(
    tracer: Tracer, operator: Any, x: Tensor, dim: int | Sequence[int] | None, keepdim: bool, last: Callable[..., int]
) -> Tensor:
    axes = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [d % max(x.dim(), 1) for d in axes] or list(range(x.dim()))
    out: Tensor = operator(x, axes, keepdim)
    kept = [d for d in range(x.dim()) if d not in axes]
    codes = tracer.codes_of(x)
    lines = codes.permute(*kept, *axes).reshape(out.numel(), -1) if x.dim() else codes.reshape(1, 1)

    def emit(unique: list[tuple[int, ...]]) -> Tensor:
        # features of one sum lie side by side
        terms = tracer.value([scalar for line in unique for scalar in line])
        v = last(tracer.builder.sum(terms, len(unique)), lines.shape[1])
        return tracer.scalars.of(v)[:, None]

    return tracer.give(out, tracer.per_line(lines, 1, emit))


def mm(tracer: Tracer, a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``."""
    if not _one_is_constant(tracer, a, b):
        with tracer:
            return torch.bmm(a[None], b[None])[0]
    return tracer.give(torch.mm(a, b), _affine(tracer, tracer.codes_of(a), tracer.codes_of(b), None))


def addmm(tracer: Tracer, bias: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta bias + alpha a @ b``."""
    if beta != 1 or alpha != 1 or not _one_is_constant(tracer, a, b):
        with tracer:
            product = torch.mm(a, b) if alpha == 1 else alpha * torch.mm(a, b)
            return (bias if beta == 1 else beta * bias) + product
    out = torch.addmm(bias, a, b)
    codes = tracer.codes_of(bias).expand(out.shape)
    return tracer.give(out, _affine(tracer, tracer.codes_of(a), tracer.codes_of(b), codes))


def mv(tracer: Tracer, a: Tensor, x: Tensor) -> Tensor:
    """``a @ x``, x a vector."""
    with tracer:
        return torch.mm(a, x[:, None])[:, 0]


def bmm(tracer: Tracer, a: Tensor, b: Tensor) -> Tensor:
    """Products of the matrices of two batches."""
    if not _one_is_constant(tracer, a, b):
        return _product_of_varying(tracer, a, b)
    out = torch.bmm(a, b)
    a_codes, b_codes = tracer.codes_of(a), tracer.codes_of(b)
    flip = tracer.scalars.sort(b_codes) > CONSTANT
    if flip:
        a_codes, b_codes = b_codes.mT, a_codes.mT
    matrices, choice = torch.unique(b_codes.flatten(1), dim=0, return_inverse=True)
    result = torch.empty(a_codes.shape[0], a_codes.shape[1], b_codes.shape[2], dtype=torch.int64)
    for i, matrix in enumerate(matrices):
        chosen = choice == i
        lines = a_codes[chosen].flatten(0, 1)
        product = _affine(tracer, lines, matrix.reshape(b_codes.shape[1:]), None)
        result[chosen] = product.reshape(-1, *result.shape[1:])
    return tracer.give(out, result.mT if flip else result)


def convolution(tracer: Tracer, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    """A convolution as a product with its matrix, which is found from unit vectors for every solve.

    Args:
        x: [rows, channels, ...].
    """
    features = math.prod(x.shape[1:])
    out = torch.ops.aten.convolution.default(x, weight, bias, *settings)
    if tracer.scalars.sort(tracer.codes_of(weight)) > CONSTANT:
        raise tracer.refusal("has a kernel that is not constant")
    if features * math.prod(out.shape[1:]) > _MOST_TERMS:
        raise tracer.refusal(f"is a matrix of {features} x {math.prod(out.shape[1:])} numbers here, which is too large")
    with tracer:
        unit = torch.eye(features, dtype=x.dtype, device=x.device).reshape(features, *x.shape[1:])
        matrix = torch.ops.aten.convolution.default(unit, weight, None, *settings).flatten(1)
        product = torch.mm(x.reshape(-1, features), matrix).reshape(out.shape)
        return product if bias is None else product + bias.reshape(-1, *[1] * (x.dim() - 2))


def extreme(tracer: Tracer, name: str, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """``x.max(dim)`` or ``x.min(dim)``: the values are known, the indices must not be used."""
    if dim is None:
        with tracer:
            return REDUCTIONS[f"a{name}"](x)
    with tracer:
        values = REDUCTIONS[f"first_{name}"](x, dim, keepdim)
    indices = getattr(torch, name)(x, dim, keepdim).indices
    tracer.unreadable[id(indices)] = (indices, tracer.refusal("gives an index that depends on the state"))
    return values, indices


def _one_is_constant(tracer: Tracer, a: Tensor, b: Tensor) -> bool:
    return any(tracer.scalars.sort(tracer.codes_of(x)) <= CONSTANT for x in (a, b))


def _product_of_varying(tracer: Tracer, a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` where neither is constant: products and sums of features; [N, p, n] times [N, n, m]."""
    terms = a.numel() * b.shape[2] // tracer.rows
    if terms > _MOST_TERMS:
        raise tracer.refusal(f"multiplies two matrices that are both computed, {terms} products for each row")
    with tracer:
        return (a[..., None] * b[:, None]).sum(2)


def _affine(tracer: Tracer, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Codes [p, m] of ``a @ b + bias``, one of a [p, n] and b [n, m] constant."""
    if tracer.scalars.sort(b) > CONSTANT:
        return _affine(tracer, b.T, a.T, None if bias is None else bias.T).T
    n, m = b.shape
    if tracer.rows > 1 and m > 0 and m % tracer.rows == 0:
        # its columns are those of the rows: a constant that was expanded, which is the same for all of them
        both = b if bias is None else torch.cat([b, bias])
        columns, column_of = torch.unique(both, dim=1, return_inverse=True)
        if columns.shape[1] < m:
            return _affine(tracer, a, columns[:n], None if bias is None else columns[n:])[:, column_of]
    matrix, transposed = tracer.matrix(b)
    lines = a if bias is None else torch.cat([a, bias], 1)

    def emit(unique: list[tuple[int, ...]]) -> Tensor:
        results = []
        for line in unique:
            shift = None if bias is None else tracer.value(line[n:], broadcast=True)
            shift = None if shift is not None and tracer.builder.number(shift) == 0 else shift
            v = tracer.builder.affine(tracer.value(line[:n]), matrix, m, shift, transposed)
            results.append(tracer.scalars.of(v))
        return torch.stack(results)

    return tracer.per_line(lines, m, emit)


#: by the operator's name
PRODUCTS: dict[str, Callable[..., Any]] = {
    "addmm": addmm,
    "bmm": bmm,
    "bucketize": bucketize,
    "convolution": convolution,
    "mean": mean,
    "max": lambda tracer, *args, **kwargs: extreme(tracer, "max", *args, **kwargs),
    "min": lambda tracer, *args, **kwargs: extreme(tracer, "min", *args, **kwargs),
    "mm": mm,
    "mv": mv,
    "searchsorted": searchsorted,
    "sum": total,
}
