"""Operators of torch over several features written out in simpler ones: norms, softmax, normalisation, products.

Each function has the arguments of the operator of its name; see :mod:`.decompositions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .decompositions import Dims
from .refusal import NoRule


def _axes(x: Tensor, dim: Dims) -> list[int]:
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(x.dim()))
    return [d % max(x.dim(), 1) for d in ([dim] if isinstance(dim, int) else dim)]


def _folded(x: Tensor, dim: Dims, keepdim: bool, pair: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``pair`` over all elements along some axes, in pairs."""
    axes = _axes(x, dim)
    kept = [d for d in range(x.dim()) if d not in axes]
    terms = list(x.permute(*kept, *axes).reshape(*[x.shape[d] for d in kept], -1).unbind(-1))
    while len(terms) > 1:
        terms = [pair(*terms[i : i + 2]) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0].reshape([1 if d in axes else n for d, n in enumerate(x.shape)]) if keepdim else terms[0]


def amax(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    return _folded(x, dim, keepdim, torch.maximum)


def amin(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    return _folded(x, dim, keepdim, torch.minimum)


def first_max(x: Tensor, dim: int, keepdim: bool) -> Tensor:
    """``x.max(dim).values``, which differs from ``amax`` in its slope: all of it is for the first of the largest."""
    return _folded(x, dim, keepdim, lambda a, b: torch.where((b > a) | (b != b), b, a))


def first_min(x: Tensor, dim: int, keepdim: bool) -> Tensor:
    """``x.min(dim).values``, likewise."""
    return _folded(x, dim, keepdim, lambda a, b: torch.where((b < a) | (b != b), b, a))


def any(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    return _folded(x != 0, dim, keepdim, torch.logical_or)


def all(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    return _folded(x != 0, dim, keepdim, torch.logical_and)


def prod(x: Tensor, dim: Dims = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    return _folded(x if dtype is None else x.to(dtype), dim, keepdim, torch.mul)


def cumsum(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return _running(x, dim, torch.add)


def cumprod(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return _running(x, dim, torch.mul)


def _running(x: Tensor, dim: int, pair: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    parts = list(x.unbind(dim))
    for i in range(1, len(parts)):
        parts[i] = pair(parts[i - 1], parts[i])
    return torch.stack(parts, dim)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def vdot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def addmv(x: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * x + alpha * torch.mv(a, b)


def addr(x: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * x + alpha * (a[:, None] * b)


def addmm(x: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * x + alpha * torch.mm(a, b)


def baddbmm(x: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.bmm(a, b)
    if beta == 0:  # torch ignores x then, NaN too
        return alpha * product
    return (x if beta == 1 else beta * x) + (product if alpha == 1 else alpha * product)


def _trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    for d in expand1:
        a = a.unsqueeze(d)
    for d in expand2:
        b = b.unsqueeze(d)
    for d in expand3:
        c = c.unsqueeze(d)
    return (a * b * c).sum(list(sumdim))


def linalg_cross(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    a1, a2, a3 = a.unbind(dim)
    b1, b2, b3 = b.unbind(dim)
    return torch.stack([a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1], dim)


def linalg_vector_norm(
    x: Tensor, ord: float = 2, dim: Dims = None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    axes = _axes(x, dim)
    if abs(ord) == math.inf:
        return (amax if ord > 0 else amin)(x.abs(), axes, keepdim)
    if ord == 0:
        return (x != 0).to(x.dtype).sum(axes, keepdim)
    if ord == 2:
        return _root((x * x).sum(axes, keepdim), 2)
    if ord == 1:
        return x.abs().sum(axes, keepdim)
    return _root(x.abs().pow(ord).sum(axes, keepdim), ord)


def _cdist_forward(a: Tensor, b: Tensor, p: float, compute_mode: int | None = None) -> Tensor:
    return linalg_vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)


def _root(x: Tensor, degree: float) -> Tensor:
    """Of a number that is not negative, with slope 0 at 0: that of torch's norms."""
    none = x == 0
    safe = torch.where(none, 1.0, x)
    return torch.where(none, 0.0, safe.sqrt() if degree == 2 else safe.pow(1 / degree))


def var(x: Tensor, dim: Dims = None, correction: float | None = None, keepdim: bool = False) -> Tensor:
    return var_mean(x, dim, correction, keepdim)[0]


def std(x: Tensor, dim: Dims = None, correction: float | None = None, keepdim: bool = False) -> Tensor:
    return _root(var(x, dim, correction, keepdim), 2)


def var_mean(
    x: Tensor, dim: Dims = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    axes = _axes(x, dim)
    n = math.prod(x.shape[d] for d in axes)
    mean = x.mean(axes, keepdim=True)
    deviation = x - mean
    total = (deviation * deviation).sum(axes, keepdim) / (n - (1 if correction is None else correction))
    return total, mean.reshape(total.shape)


def _softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    e = torch.exp(x - amax(x, dim, True))
    return e / e.sum(dim, keepdim=True)


def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    # attention to nothing at all is zero and not NaN
    return torch.where(amax(x, dim, True) == -math.inf, 0.0, _softmax(x, dim))


def _log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    shifted = x - amax(x, dim, True)
    return shifted - torch.exp(shifted).sum(dim, keepdim=True).log()


def _scaled_dot_product_flash_attention_for_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], device=q.device).triu(1) != 0
        scores = torch.where(hidden, -math.inf, scores)
    if attn_mask is not None:
        scores = scores + attn_mask
    weights = _softmax(scores, -1)
    return (torch.dropout(weights, dropout_p, True) if dropout_p else weights) @ v, q.new_zeros(0)


def logsumexp(x: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    axes = _axes(x, dim)
    high = amax(x, axes, True)
    # an infinite maximum is the sum already
    high = torch.where(high.abs() == math.inf, 0.0, high)
    total = torch.exp(x - high).sum(axes, keepdim=True).log() + high
    return total if keepdim else total.squeeze(axes)


def native_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    variance, mean = var_mean(x, list(range(x.dim() - len(shape), x.dim())), 0, True)
    scale = 1 / (variance + eps).sqrt()
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return out if bias is None else out + bias, mean, scale


def native_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hxw: int, group: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    variance, mean = var_mean(x.reshape(n, group, -1), 2, 0, True)
    scale = 1 / (variance + eps).sqrt()
    out = ((x.reshape(n, group, -1) - mean) * scale).reshape(n, c, hxw)
    out = out if weight is None else out * weight[:, None]
    out = out if bias is None else out + bias[:, None]
    return out.reshape(x.shape), mean.reshape(n, group), scale.reshape(n, group)


def native_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, training: bool, *rest: float
) -> tuple[Tensor, Tensor, Tensor]:
    eps = rest[-1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    scale = 1 / (variance + eps).sqrt()
    scale = scale if weight is None else scale * weight
    out = (x - mean.reshape(shape)) * scale.reshape(shape)
    return out if bias is None else out + bias.reshape(shape), x.new_zeros(0), x.new_zeros(0)


def _native_batch_norm_legit_no_training(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *rest: float
) -> tuple[Tensor, Tensor, Tensor]:
    return native_batch_norm(x, weight, bias, mean, variance, False, *rest)


def _adjugate(a: Tensor) -> tuple[Tensor, Tensor]:
    """Of matrices with up to three rows, and their determinants, by cofactors.

    Raises:
        NoRule: the matrices are larger.
    """
    n = a.shape[-1]
    if n > 3:
        raise NoRule(f"has no rule for matrices that depend on the state and have more than 3 rows, but has {n}")
    m = [list(row.unbind(-1)) for row in a.unbind(-2)]
    if n == 1:
        return torch.ones_like(a), m[0][0]
    if n == 2:
        rows = [[m[1][1], -m[0][1]], [-m[1][0], m[0][0]]]
    else:
        # signs come with the cyclic order of the other rows and columns
        i = (1, 2, 0), (2, 0, 1)
        rows = [
            [m[i[0][c]][i[0][r]] * m[i[1][c]][i[1][r]] - m[i[0][c]][i[1][r]] * m[i[1][c]][i[0][r]] for c in range(n)]
            for r in range(n)
        ]
    determinant = sum((m[0][k] * rows[k][0] for k in range(1, n)), m[0][0] * rows[0][0])
    return torch.stack([torch.stack(row, -1) for row in rows], -2), determinant


def _linalg_det(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _adjugate(a)[1], a.new_zeros(0), a.new_zeros(0)


def _linalg_slogdet(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    determinant = _adjugate(a)[1]
    return torch.sign(determinant), torch.log(determinant.abs()), a.new_zeros(0), a.new_zeros(0)


def linalg_inv_ex(a: Tensor, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    adjugate, determinant = _adjugate(a)
    return adjugate / determinant[..., None, None], a.new_zeros(0, dtype=torch.int32)


def _linalg_solve_ex(
    a: Tensor, b: Tensor, left: bool = True, check_errors: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inverse = torch.linalg.inv(a)
    if b.dim() == 1 or b.shape == a.shape[:-1]:
        out = (inverse @ b[..., None])[..., 0]
    else:
        out = inverse @ b if left else b @ inverse
    return out, a.new_zeros(0), a.new_zeros(0), a.new_zeros(0, dtype=torch.int32)


#: by the operator's name
REDUCTIONS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in list(globals().items())
    if callable(function)
    and getattr(function, "__module__", None) == __name__
    and name not in ("_adjugate", "_axes", "_folded", "_running")
}
