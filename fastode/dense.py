"""A solution as a function of time."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidArgument
from .problem import real_dtype
from .tree import Parts


def _of_one_part(parts: Parts) -> Any:
    return parts[0]


class DenseSolution:
    """Piecewise polynomials through the accepted steps.

    ``sol(t)`` takes a number or 0-dim tensor and returns a state, or a tensor ``[...]`` and returns states
    ``[..., *y0.shape]``. Gradients reach the solve's inputs and ``t``.

    Args:
        ends: where the steps begin and end, in the order in which they were taken.
        coefficients: of each part [steps, degree + 1, *shape], those of the powers of the fraction of a step.
        round_time: a time as the solve rounds it.
        restore: gives parts the structure of the state.
        moving: [steps + 1] zeros with the gradient of the ends, or None.
    """

    def __init__(
        self,
        ends: list[float],
        coefficients: Parts,
        *,
        round_time: Callable[[float], float] = float,
        restore: Callable[[Parts], Any] = _of_one_part,
        moving: Tensor | None = None,
    ) -> None:
        self.ends = ends
        self._coefficients = coefficients
        self._direction = -1.0 if ends[-1] < ends[0] else 1.0
        self._round_time, self._restore, self._moving = round_time, restore, moving

    def __call__(self, t: Tensor | float) -> Any:
        """States at ``t``.

        Raises:
            InvalidArgument: a time lies outside the interval that was solved.
        """
        d = self._direction
        times = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        flat = times.reshape(-1)
        s = [d * float(self._round_time(v)) for v in flat.detach().to(torch.float64).tolist()]
        ends = [d * v for v in self.ends]
        if any(not ends[0] <= v <= ends[-1] for v in s):
            raise InvalidArgument(
                f"invalid interpolation, fails `t0 <= t <= t1`: the solution spans {self.ends[0]} to {self.ends[-1]}, "
                f"but t={[d * v for v in s if not ends[0] <= v <= ends[-1]][:3]}"
            )
        steps = [min(bisect.bisect_right(ends, v), len(ends) - 1) - 1 for v in s]
        x = self._fractions(flat, s, steps)
        index = torch.tensor(steps, dtype=torch.long, device=self._coefficients[0].device)
        values = [self._evaluate(c[index], x).reshape((*times.shape, *c.shape[2:])) for c in self._coefficients]
        return self._restore(tuple(values))

    def _fractions(self, flat: Tensor, s: list[float], steps: list[int]) -> Tensor:
        """Where in its step each time lies, 0 to 1, carrying the gradient of ``t``."""
        d, dtype = self._direction, real_dtype(self._coefficients[0].dtype)
        sizes = [self.ends[i + 1] - self.ends[i] for i in steps]
        exact = [(d * v - self.ends[i]) / h for v, i, h in zip(s, steps, sizes, strict=True)]
        device = self._coefficients[0].device
        x = torch.tensor(exact, dtype=dtype, device=device)
        shift: Tensor | float = 0.0
        if flat.requires_grad:
            shift = (flat - flat.detach()).to(device=device, dtype=dtype)
        if self._moving is not None:
            ends = self._moving.to(device=device, dtype=dtype)
            index = torch.tensor(steps, dtype=torch.long, device=device)
            shift = shift - torch.lerp(ends[index], ends[index + 1], x.detach())
        return x + shift / torch.tensor(sizes, dtype=dtype, device=device)

    @staticmethod
    def _evaluate(c: Tensor, x: Tensor) -> Tensor:
        """Horner over the coefficients' axis 1."""
        x = x.reshape(-1, *[1] * (c.ndim - 2))
        total = c[:, -1]
        for i in range(c.shape[1] - 2, -1, -1):
            total = total * x + c[:, i]
        return total
