"""One step of every engine against the formulas, written out in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastode.kernels import Binding, Engine
from fastode.methods import methods
from fastode.tableau import ButcherTableau

PAIRS = ("dopri5", "tsit5", "bosh3", "dopri8", "fehlberg2", "adaptive_heun")
SHAPES = {
    "0-d": (), "one": (1,), "prime": (13,), "matrix": (7, 5), "empty": (0, 3), "one row": (1, 129),
    "one feature": (257, 1), "threaded": (1031, 67),
}  # fmt: skip
DTYPES = {"float32": torch.float32, "float64": torch.float64}
DT = 0.37

each_pair = pytest.mark.parametrize("method", PAIRS)
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def tableau_of(method: str) -> ButcherTableau:
    tableau = methods()[method]
    assert isinstance(tableau, ButcherTableau)
    return tableau


def sample(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(kernels: Any, y: Tensor, slopes: list[Tensor], dt: Any = DT) -> tuple[list[Tensor], Tensor, Any]:
    """Stage states, new state and error of a step with the given slopes."""
    t = torch.zeros(len(dt), dtype=torch.float64) if isinstance(dt, Tensor) else 0.0
    kernels.begin(t, dt, t + dt, (y,))
    states = [kernels.stage(i + 1, (k,))[0].clone() for i, k in enumerate(slopes[:-1])]
    (y1,), error = kernels.finish((slopes[-1],))
    return states, y1, error


def combination(y: Tensor, dt: Any, weights: list[float], slopes: list[Tensor]) -> Tensor:
    """``y + dt sum_j w_j k_j`` in float64; ``dt`` a number or one for each row."""
    size = dt.reshape(-1, *[1] * (y.ndim - 1)) if isinstance(dt, Tensor) else dt
    total = y.double()
    for w, k in zip(weights, slopes, strict=False):
        total = total + size * w * k.double()
    return total


def ratios(
    tableau: ButcherTableau, y: Tensor, y1: Tensor, slopes: list[Tensor], dt: Any, rtol: Any, atol: Any
) -> Tensor:
    error = combination(torch.zeros_like(y), dt, tableau.error_weights, slopes)
    return error / (atol + rtol * torch.maximum(y.double().abs(), y1.double().abs()))


def tolerance(dtype: torch.dtype, terms: int) -> dict[str, float]:
    eps = torch.finfo(dtype).eps
    return {"rtol": 4 * terms * eps, "atol": 16 * terms * eps}


def inputs(tableau: ButcherTableau, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    return sample(shape, dtype, 0), [sample(shape, dtype, j + 1) for j in range(tableau.stages)]


@each_dtype
@each_shape
@each_pair
def test_stages_and_the_new_state_follow_the_tableau(
    engine: Engine, method: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tableau = tableau_of(method)
    y, slopes = inputs(tableau, shape, dtype)
    kernels = engine.bind(Binding(tableau, (y,), [1e-3], [1e-4]))
    states, y1, _ = run(kernels, y, slopes)
    close = tolerance(dtype, tableau.stages)
    for i, z in enumerate(states):
        expected = combination(y, DT, tableau.matrix[i + 1], slopes)
        torch.testing.assert_close(z, expected.to(dtype), **close)
    torch.testing.assert_close(y1, combination(y, DT, tableau.weights, slopes).to(dtype), **close)


@each_dtype
@each_shape
@pytest.mark.parametrize("norm", ["rms", "max", "per_sample"])
@pytest.mark.parametrize("arrays", [False, True], ids=["numbers", "arrays"])
def test_the_error_is_the_named_norm_of_the_scaled_estimate(
    engine: Engine, shape: tuple[int, ...], dtype: torch.dtype, norm: str, arrays: bool
) -> None:
    tableau = tableau_of("dopri5")
    y, slopes = inputs(tableau, shape, dtype)
    rtol: Any = sample(shape, dtype, 20).abs() * 1e-3 + 1e-4 if arrays else 1e-3
    atol: Any = 1e-4
    kernels = engine.bind(Binding(tableau, (y,), [rtol], [atol], norm))
    _, y1, error = run(kernels, y, slopes)
    scaled = ratios(tableau, y, y1, slopes, DT, rtol.double() if arrays else rtol, atol)
    if not scaled.numel():
        assert error == 0
        return
    if norm == "rms":
        expected = scaled.square().mean().sqrt()
    elif norm == "max" or scaled.ndim < 2:
        expected = scaled.abs().max()
    else:
        expected = scaled.square().flatten(1).mean(dim=1).sqrt().max()
    assert error == pytest.approx(float(expected), rel=3e-5 if dtype == torch.float32 else 1e-12)


@each_dtype
@pytest.mark.parametrize("x", [0.0, 0.1, 0.5, 0.93, 1.0])
@each_pair
def test_dense_output_is_the_quartic_through_both_ends_both_slopes_and_the_midpoint(
    engine: Engine, method: str, x: float, dtype: torch.dtype
) -> None:
    tableau = tableau_of(method)
    y, slopes = inputs(tableau, (7, 5), dtype)
    kernels = engine.bind(Binding(tableau, (y,), [1e-3], [1e-4]))
    _, y1, _ = run(kernels, y, slopes)
    middle = combination(y, DT, tableau.mid_weights, slopes)
    a, b = y.double(), y1.double()
    first, last = DT * slopes[0].double(), DT * slopes[-1].double()
    # the conditions p(0) = a, p(1) = b, p'(0) = first, p'(1) = last, p(1/2) = middle, solved for the coefficients
    conditions = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 1, 2, 3, 4], [1, 0.5, 0.25, 0.125, 0.0625]],
        dtype=torch.float64,
    )
    values = torch.stack([a, b, first, last, middle]).reshape(5, -1)
    coefficients = torch.linalg.solve(conditions, values)
    expected = (torch.tensor([x**p for p in range(5)], dtype=torch.float64) @ coefficients).reshape(y.shape)
    (found,) = kernels.interpolate(x)
    torch.testing.assert_close(found, expected.to(dtype), **tolerance(dtype, 10))


@each_dtype
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (13, 1), (11, 6), (5, 300), (3, 2, 5)], ids=str)
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "fehlberg2"])
def test_every_row_has_its_own_step(engine: Engine, method: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tableau = tableau_of(method)
    y, slopes = inputs(tableau, shape, dtype)
    dt = torch.linspace(-0.4, 0.5, shape[0], dtype=torch.float64)
    kernels = engine.bind(Binding(tableau, (y,), [1e-3], [1e-4], rows=shape[0]))
    states, y1, error = run(kernels, y, slopes, dt)
    close = tolerance(dtype, tableau.stages)
    for i, z in enumerate(states):
        torch.testing.assert_close(z, combination(y, dt, tableau.matrix[i + 1], slopes).to(dtype), **close)
    torch.testing.assert_close(y1, combination(y, dt, tableau.weights, slopes).to(dtype), **close)
    expected = ratios(tableau, y, y1, slopes, dt, 1e-3, 1e-4).flatten(1).square().mean(dim=1).sqrt()
    torch.testing.assert_close(error, expected, rtol=3e-5 if dtype == torch.float32 else 1e-12, atol=1e-12)


def test_parts_that_the_field_does_not_depend_on_need_no_stages(engine: Engine) -> None:
    tableau = tableau_of("dopri5")
    y, slopes = inputs(tableau, (4,), torch.float64)
    q, rates = sample((3,), torch.float64, 30), [sample((3,), torch.float64, 31 + j) for j in range(tableau.stages)]
    whole, quick = (engine.bind(Binding(tableau, (y, q), [1e-3] * 2, [1e-4] * 2, quadratures=n)) for n in (0, 1))
    answers = []
    for kernels in (whole, quick):
        kernels.begin(0.0, DT, DT, (y, q))
        for i in range(tableau.stages - 1):
            z = kernels.stage(i + 1, (slopes[i], rates[i]))
            if kernels is quick and i < tableau.stages - 2:
                assert z[1] is q
        answers.append(kernels.finish((slopes[-1], rates[-1])))
    (y1, error), (y2, error2) = answers
    assert error == error2
    assert all(torch.equal(a, b) for a, b in zip(y1, y2, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_slope_that_is_not_finite_makes_an_error_that_rejects(engine: Engine, bad: float) -> None:
    tableau = tableau_of("dopri5")
    y, slopes = inputs(tableau, (9,), torch.float64)
    slopes[3][4] = bad
    _, _, error = run(engine.bind(Binding(tableau, (y,), [1e-3], [1e-4])), y, slopes)
    assert not error <= 1


def test_threads_do_not_change_a_bit(engine: Engine) -> None:
    if engine.name == "reference":
        pytest.skip("torch's product of matrix and vector, where BLAS may cut its sums by threads")
    tableau = tableau_of("dopri5")
    y, slopes = inputs(tableau, (1031, 67), torch.float32)
    answers = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        kernels = engine.bind(Binding(tableau, (y,), [1e-3], [1e-4]))
        answers.append(run(kernels, y, slopes)[:2])
    (states, y1), (others, other) = answers
    assert torch.equal(y1, other) and all(torch.equal(a, b) for a, b in zip(states, others, strict=True))
