"""In which order the torch at hand adds numbers, so that the native error norm has the same bits."""

from __future__ import annotations

from functools import cache

import torch

from ..recycle import per_thread, scratch


@cache
def vector_lanes(dtype: torch.dtype) -> int:
    """Elements in one vector of torch's summation, found out by adding; 0 if none of the known orders fits.

    With tolerances near the rounding of ``dtype`` the error estimate is rounding noise, and only the same order of
    summation gives the steps that torchdiffeq takes.
    """
    widths = (4, 8, 16)
    x = torch.rand(64, 2 * max(widths) + 1, dtype=dtype, generator=torch.Generator().manual_seed(0))
    sums = x.sum(dim=1)
    fitting = [w for w in widths if torch.equal(_by_vectors(x, w), sums)]
    return fitting[0] if len(fitting) == 1 else 0


def _by_vectors(x: torch.Tensor, width: int) -> torch.Tensor:
    """Row sums by vectors of ``width``: interleaved partial sums of four vectors, the tail, then the lanes in turn."""
    vectors = x.shape[1] // width
    v = x[:, : vectors * width].reshape(-1, vectors, width)
    partial = [torch.zeros_like(v[:, 0]) for _ in range(4)]
    whole = vectors // 4 * 4
    for i in range(vectors):
        slot = i % 4 if i < whole else 0
        partial[slot] = partial[slot] + v[:, i]
    lanes = ((partial[0] + partial[1]) + partial[2]) + partial[3]
    total = torch.zeros_like(x[:, 0])
    for i in range(vectors * width, x.shape[1]):
        total = total + x[:, i]
    for i in range(width):
        total = total + lanes[:, i]
    return total


class TorchRoot:
    """The square root that torch takes, which is not the correctly rounded one: it calls a vector library."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._value, self._x = scratch(1, dtype)

    def __call__(self, x: float) -> float:
        self._value[0] = x
        self._x.sqrt_()
        return float(self._value[0])


#: the root of this thread
torch_root = per_thread(TorchRoot)
