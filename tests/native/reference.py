"""What the kernels of a step mean, in numpy float64, and a step on random data to test them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastode import _native

Array = NDArray[np.floating]


def make_step(
    itemsize: int, rows: int, cols: int, c: Any, a: Any, b: Any, b_error: Any, mid: Any, threads: int
) -> _native.Step:
    """The step of a method given by its coefficients."""
    return _native.Step(itemsize, rows, cols, _native.Tableau(c, a, b, b_error, mid), threads)


@dataclass
class Case:
    """One step with everything a kernel reads; `y1` is the new state in the data's own precision."""

    dtype: type
    rows: int
    cols: int
    stages: int
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        s = self.stages
        self.c = [0.0, *rng.uniform(0, 1, max(s - 2, 0)), 1.0][:s]
        self.a = [list(rng.normal(size=i)) for i in range(s)]
        for row in self.a[2:]:
            row[1] = 0.0
        self.b, self.b_error, self.mid = (list(rng.normal(size=s)) for _ in range(3))
        if s > 2:
            self.b[1] = self.b[-1] = self.b_error[1] = self.mid[2] = 0.0
        shape = (self.rows, self.cols)
        self.y = rng.normal(size=shape).astype(self.dtype)
        self.k = [rng.normal(size=shape).astype(self.dtype) for _ in range(s)]
        self.dt = 0.0625
        self.dts = rng.uniform(0.01, 0.2, self.rows)
        self.x = rng.uniform(0, 1, self.rows)
        self.rtol, self.atol = 1e-3, 1e-4
        self.y1 = (self.y + rng.normal(size=shape)).astype(self.dtype)

    def step(self) -> _native.Step:
        item = np.dtype(self.dtype).itemsize
        step = make_step(item, self.rows, self.cols, self.c, self.a, self.b, self.b_error, self.mid, self.threads)
        step.tolerance(self.rtol, self.atol)
        step.begin(address(self.y))
        return step

    def run_stages(self, step: _native.Step) -> None:
        """Registers every slope but the last."""
        scratch = self.empty()
        for i in range(1, self.stages):
            step.stage(i, self.dt, address(self.k[i - 1]), address(scratch))

    def empty(self) -> Array:
        return np.full((self.rows, self.cols), np.nan, self.dtype)

    def tolerance(self, scale: float) -> dict[str, float]:
        """Rounding of a sum of S products of `scale`, each with a relative error of a few eps."""
        eps = float(np.finfo(self.dtype).eps)
        return {"rtol": 8 * eps, "atol": 4 * (self.stages + 2) * eps * scale}

    def combination(self, weights: list[float], dt: float | Array) -> Array:
        total = np.zeros((self.rows, self.cols))
        for w, k in zip(weights, self.k, strict=False):
            if w != 0:
                total = total + k.astype(np.float64) * (w * np.reshape(dt, (-1, 1)))
        return total

    def state(self, weights: list[float], dt: float | Array) -> Array:
        return self.y.astype(np.float64) + self.combination(weights, dt)

    def scaled_error(self, y1: Array, dt: float | Array) -> Array:
        size = np.maximum(np.abs(self.y.astype(np.float64)), np.abs(y1.astype(np.float64)))
        return self.combination(self.b_error, dt) / (self.atol + self.rtol * size)

    def interpolate(self, x: float | Array, dt: float | Array) -> Array:
        """The quartic in torchdiffeq's own coefficients, to check the rearranged weights."""
        x, h = np.reshape(x, (-1, 1)), np.reshape(dt, (-1, 1))
        y0, y1 = self.y.astype(np.float64), self.y1.astype(np.float64)
        f0, f1 = self.k[0].astype(np.float64), self.k[-1].astype(np.float64)
        middle = self.state(self.mid, dt)
        a = 2 * h * (f1 - f0) - 8 * (y1 + y0) + 16 * middle
        b = h * (5 * f0 - 3 * f1) + 18 * y0 + 14 * y1 - 32 * middle
        c = h * (f1 - 4 * f0) - 11 * y0 - 5 * y1 + 16 * middle
        return (((a * x + b) * x + c) * x + h * f0) * x + y0


def address(array: NDArray[np.generic]) -> int:
    return array.ctypes.data


def rms(values: Array, axis: int | None = None) -> Array:
    return np.sqrt(np.mean(np.square(values), axis=axis))
