"""One step on random slopes, and what it must give: recomputed in float64 from the formulas of the methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastode.kernels import Binding
from fastode.methods import lookup
from fastode.tableau import ButcherTableau

#: 2^17 reads are shared among threads: six operands of this shape are more
LARGE = (211, 197)
SHAPES = [(), (1,), (7,), (13, 5), (1, 31), (17, 1), (3, 2, 5), (0,), (0, 3), (3, 0), LARGE]
#: first axis: rows with a step size each
ROWS = [(1, 31), (17, 1), (13, 5), (3, 2, 5), (3, 0), LARGE]


def shape_id(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


@dataclass
class Answer:
    """What a step handed out; stages are copied, since an engine may write into them again."""

    times: Sequence[Tensor]
    stages: list[Tensor]
    y1: Tensor
    err: Any
    between: Tensor


@dataclass
class Step:
    """A step of ``method`` from random numbers.

    Attributes:
        t, dt, x: time, step size and fraction of dense output; tensors [R] if ``rows``.
    """

    method: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    rows: bool = False
    dt: Any = 0.0625
    rtol: Any = 1e-3
    atol: Any = 1e-4
    norm: Any = "rms"

    def __post_init__(self) -> None:
        self.tableau = lookup(self.method)
        assert isinstance(self.tableau, ButcherTableau)
        self.y = self.random()
        self.k = [self.random() for _ in range(self.tableau.stages)]
        self.t, self.x = 0.5, 0.3125
        if self.rows:
            count = self.shape[0]
            self.t, self.x = (torch.rand(count).double().to(self.device) for _ in range(2))
            signs = torch.tensor([1.0, -1.0]).repeat(count)[:count]
            self.dt = ((0.01 + 0.1 * torch.rand(count)).double() * signs).to(self.device)

    def random(self) -> Tensor:
        return torch.randn(self.shape, dtype=torch.float64).to(self.device, self.dtype)

    def run(self, engine: Any, tape: bool = False) -> Answer:
        """The step on ``engine``, as the loop makes it."""
        binding = Binding(
            self.tableau, (self.y,), [self.rtol], [self.atol], self.norm, rows=self.shape[0] if self.rows else None
        )
        kernels = engine.bind(binding)
        if tape:
            kernels = kernels.to_tape()
        times = kernels.begin(self.t, self.dt, self.t + self.dt, (self.y,))
        stages = [kernels.stage(i, (self.k[i - 1],))[0].clone() for i in range(1, self.tableau.stages)]
        (y1,), err = kernels.finish((self.k[-1],))
        # with a tape the times are one buffer, which the next step may use again
        return Answer([t.clone() for t in times], stages, y1, err, kernels.interpolate(self.x)[0])

    def columns(self, v: Any) -> Any:
        """A number for each row, shaped to multiply states."""
        return v.to(self.device).view(-1, *[1] * (len(self.shape) - 1)) if self.rows else v

    def sum(self, weights: Sequence[float], absolute: bool = False) -> Tensor:
        """``dt sum_j weights[j] k[j]``, or the sum of the moduli, which bounds its rounding errors."""
        total = torch.zeros(self.shape, dtype=torch.float64, device=self.device)
        for w, k in zip(weights, self.k, strict=False):
            term = w * self.columns(self.dt) * k.double()
            total = total + (term.abs() if absolute else term)
        return total

    def state(self, weights: Sequence[float]) -> Tensor:
        return self.y.double() + self.sum(weights)

    def ratio(self, y1: Tensor, absolute: bool = False) -> Tensor:
        """The embedded error in units of the tolerance."""
        size = torch.maximum(self.y.double().abs(), y1.double().abs())
        return self.sum(self.tableau.error_weights, absolute) / (self.atol + self.rtol * size)

    def quartic(self, y1: Tensor) -> Tensor:
        """At ``x``: the polynomial with the values and slopes of both ends and the value of the middle."""
        slopes = self.columns(self.dt) * self.k[0].double(), self.columns(self.dt) * self.k[-1].double()
        data = torch.stack([self.y.double(), slopes[0], self.state(self.tableau.mid_weights), y1.double(), slopes[1]])
        powers = torch.arange(5, dtype=torch.float64)
        conditions = torch.stack([
            powers == 0, powers == 1, 0.5**powers, torch.ones(5), powers,
        ]).double().to(self.device)  # fmt: skip
        coefficients = torch.tensordot(torch.linalg.inv(conditions), data, dims=1)
        x = self.columns(self.x)
        return sum(c * x**p for p, c in enumerate(coefficients.unbind(0)))  # type: ignore[return-value]

    def rounding_of_the_quartic(self, y1: Tensor) -> Tensor:
        """Slopes weigh at most 1 + |b_mid|; the condition of the polynomial computed here is about 100."""
        size = self.y.double().abs() + y1.double().abs()
        size = size + self.sum([1 + abs(m) for m in self.tableau.mid_weights], absolute=True)
        return (self.unit + 200 * 2.0**-52) * size

    @property
    def unit(self) -> float:
        """What rounding makes of a sum of products over all stages, relative to the sum of their moduli."""
        return 2 * (self.tableau.stages + 4) * torch.finfo(self.dtype).eps


def assert_within(found: Tensor, expected: Tensor, bound: Tensor | float) -> None:
    """Every element is as expected up to its own bound."""
    assert found.shape == expected.shape
    off = (found.double() - expected).abs()
    assert bool((off <= bound).all()), f"off by {float(off.max())}"
