"""Indexing by whole numbers that a field computes from time or state: tables and interpolated inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .codes import NUMBER, rows_of

if TYPE_CHECKING:
    from .tracer import Tracer


def look_up(tracer: Tracer, func: Any, name: str, args: tuple[Any, ...]) -> Tensor:
    """``x[..., index, ...]``, ``x[arange(rows), index]`` or ``x.index_select(dim, index)``, the index computed.

    The entries along the indexed axis are groups of features that lie one after the other; one group is looked up for
    each number of the index, in a table that all rows share, or for each row in its own.
    """
    x, each_in_its_row = args[0], False
    if name == "index_select":
        dim, index = args[1] % max(x.dim(), 1), args[2]
    else:
        dim, index, each_in_its_row = _computed_index(tracer, args[1])
    out: Tensor = func(*args)
    codes = tracer.codes_of(x).movedim(dim, 0)
    entries, others = codes.reshape(codes.shape[0], -1), codes.shape[1:]
    numbers = tracer.codes_of(index).reshape(-1, 1)
    row = rows_of(entries).amax(0)
    order = torch.argsort(row, stable=True)
    tables = tracer.rows if len(row) and bool(row.all()) else 1
    if tables > 1 and len(numbers) > 1 and not each_in_its_row:
        raise tracer.refusal("looks up several entries of each row: index what the rows share, or by one number")
    width = len(row) // tables
    table = entries[:, order].reshape(len(entries), tables, width).movedim(1, 0).flatten(1)
    count = max(len(numbers), tables)
    lines = torch.cat([table.expand(count, -1), numbers.expand(count, 1)], 1)

    def emit(unique: list[tuple[int, ...]]) -> Tensor:
        found = []
        for *features, number in unique:
            v = tracer.builder.lookup(tracer.value(features), tracer.value([number]), width)
            found.append(tracer.scalars.of(v))
        return torch.stack(found)

    result = tracer.per_line(lines, width, emit)
    if tables > 1:
        result = torch.empty_like(row).index_copy(0, order, result.flatten())
    if each_in_its_row:
        return tracer.give(out, result.reshape(out.shape))
    numbered = index.dim()
    result = result.reshape(*index.shape, *others)
    return tracer.give(out, result.movedim(list(range(numbered)), list(range(dim, dim + numbered))))


def _computed_index(tracer: Tracer, indices: list[Tensor | None]) -> tuple[int, Tensor, bool]:
    """The axis that is indexed, by what, and whether the index has one number for each row of ``x``."""
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) == 1:
        return *given[0], False
    (first, rows), (second, index) = given[:2]
    if len(given) == 2 and (first, second) == (0, 1) and index.shape == (tracer.rows,):
        rows_in_order = rows.shape == index.shape and torch.equal(rows.cpu(), torch.arange(tracer.rows))
        if rows_in_order and tracer.sort([rows]) == NUMBER:
            return 1, index, True
    raise tracer.refusal("picks elements by several indices, one of which the state or the time decides")


def bucketize(tracer: Tracer, x: Tensor, boundaries: Tensor, out_int32: bool = False, right: bool = False) -> Tensor:
    """``searchsorted`` with its first arguments the other way round."""
    return searchsorted(tracer, boundaries, x, out_int32, right)


def searchsorted(
    tracer: Tracer,
    boundaries: Tensor,
    x: Tensor,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """How many boundaries lie before ``x``; all do before NaN."""
    if sorter is not None:
        raise tracer.refusal("has a `sorter`: sort the boundaries before the solve")
    if boundaries.dim() != 1:
        raise tracer.refusal("has boundaries of several dimensions: use one line of them for all rows")
    right = right or side == "right"
    out = torch.searchsorted(boundaries.contiguous(), x.contiguous(), out_int32=out_int32, right=right)
    with tracer:
        reached = boundaries > x.unsqueeze(-1) if right else boundaries >= x.unsqueeze(-1)
        count = torch.logical_not(reached).to(boundaries.dtype).sum(-1)
    return tracer.give(out, tracer.codes_of(count))


def without_reading(tracer: Tracer, x: Tensor, index: Any) -> tuple[Any, int] | None:
    """An index for ``x[index]`` that does not make torch read a computed number, and the axis of size 1 it leaves.

    Torch takes a tensor of one integer for a number, which it reads; of one in an axis of its own it does not.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    at = [k for k, p in enumerate(parts) if isinstance(p, Tensor)]
    if len(at) != 1 or any(isinstance(p, list) for p in parts):
        return None
    number = parts[at[0]]
    if number.dim() or number.dtype not in (torch.int32, torch.int64) or not tracer.computes(number):
        return None
    taken = sum(p is not None and p is not Ellipsis and not isinstance(p, bool) for p in parts)
    axis = 0
    for p in parts[: at[0]]:
        axis += x.dim() - taken if p is Ellipsis else 0 if isinstance(p, int) and not isinstance(p, bool) else 1
    parts[at[0]] = number[None]
    return tuple(parts), axis
