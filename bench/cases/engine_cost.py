"""What the engine of compiled fields makes of the machine: the rate of a solve's matrix products beside torch.mm.

Only products count, but all of the solve's time: activations, stages, error norms and outputs are what the rest is for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

import fastode

from ..contest import Case, Count, Target
from ..measure import Effort, alternate
from ..problems import MLPField, seeded, state

#: rows, dims, hidden units, and the share of the peak that is asked for
SIZES = ((4096, 2, 8, None), (4096, 2, 16, None), (4096, 2, 64, 0.6), (4096, 64, 256, 0.6), (1024, 64, 1000, 0.6))
#: square matrices whose product is the peak, the best size of them: all fit a cache
PRODUCTS = (256, 512, 1024)


def flops_of(field: nn.Module, rows: int) -> int:
    """Of the matrix products of one evaluation; a product and a sum are two."""
    return 2 * rows * sum(m.weight.numel() for m in field.modules() if isinstance(m, nn.Linear))


def _measure(rows: int, dims: int, hidden: int, products: tuple[int, ...], effort: Effort) -> tuple[float, float]:
    """GFLOP/s of torch.mm and of the solve, each the best of alternating rounds."""
    field = seeded(lambda: MLPField(dims, hidden))
    compiled, y0, t = fastode.compile(field), state(rows, dims), torch.tensor([0.0, 1.0])
    matrices = [state(n, n) for n in products]

    def solve() -> None:
        fastode.odeint(compiled, y0, t, rtol=1e-6, atol=1e-6)

    calls: list[Callable[[], object]] = [functools.partial(torch.mm, m, m) for m in matrices]
    with torch.no_grad():
        with fastode.stats() as log:
            solve()
        if log[0].engine != "compiled":
            raise RuntimeError(f"solved by the engine {log[0].engine!r}, not natively: {log[0].reason}")
        seconds = [min(sample) for sample in alternate([*calls, solve], effort)]
    peak = max(2 * n**3 / s for n, s in zip(products, seconds[:-1], strict=True))
    return peak / 1e9, log.n_func * flops_of(field, rows) / seconds[-1] / 1e9


def cases(tiny: bool) -> list[Case]:
    """One for each size; the ratio is the share of the peak."""

    def count(rows: int, dims: int, hidden: int) -> Count:
        products, effort = ((8,), Effort(0.0, 1, 0.0)) if tiny else (PRODUCTS, Effort(0.5, 5, 0.002))
        measure = functools.partial(_measure, rows, dims, hidden, products, effort)
        return Count(measure, "GFLOP/s", "torch.mm", "odeint", rate=True)

    return [
        Case(
            f"engine beside torch.mm {rows}-{dims}-{hidden}",
            functools.partial(count, *((3, 2, 4) if tiny else (rows, dims, hidden))),
            Target("ratio", share) if share else None,
        )
        for rows, dims, hidden, share in SIZES
    ]
