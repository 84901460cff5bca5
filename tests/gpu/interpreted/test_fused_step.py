"""One attempt of a step that all rows share, in Triton's interpreter, is the reference's step."""

from __future__ import annotations

import pytest
import torch
from compiler.solving import SHARING
from torch import Tensor

from fastode.compiler.evaluate import evaluate as by_torch
from fastode.compiler.gpu import NotFused
from fastode.compiler.gpu.evaluate import evaluate
from fastode.compiler.gpu.step import Attempt, attempt_step
from fastode.kernels.reference import finish, stage
from fastode.kernels.reference.finish import scaled_error
from fastode.methods import lookup
from gpu.fields import Traced, wide

ROWS, T, DT = 35, 0.2, 0.3
RTOL, ATOL = 1e-3, 1e-4


def double(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def reference(found: Traced, y: Tensor, method: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``y1``, the last slope, the state half way and the scaled errors."""
    tableau = lookup(method)

    def slope(t: float, z: Tensor) -> Tensor:
        seen = z[:, : found.program.state_width].contiguous()
        return by_torch(found.program, t, seen, found.arguments, found.constants)[0]

    k = [slope(T, y)]
    for c, a in zip(tableau.nodes[1:], tableau.matrix[1:], strict=True):
        k.append(slope(T + DT * c, stage(y, DT, k, a)))
    y1, _ = finish(y, DT, k, tableau.weights, tableau.error_weights, RTOL, ATOL)
    errors = scaled_error(y, y1, DT, k, tableau.error_weights, RTOL, ATOL)
    return y1, k[-1], stage(y, DT, k, tableau.mid_weights), errors


def attempt(found: Traced, y: Tensor, method: str, parts: list[int], **settings: object) -> Attempt:
    fused = found.fused(**settings)
    tolerances = (torch.tensor([RTOL], dtype=y.dtype), torch.tensor([ATOL], dtype=y.dtype))
    inputs = (found.arguments, found.constants)
    first = evaluate(fused, double(T), y, *inputs)
    times = (double(T), double(DT), double(T + DT))
    return attempt_step(fused, lookup(method), times, y, first, *inputs, tolerances, parts)


@pytest.mark.parametrize("in_memory", [False, True], ids=["registers", "memory"])
@pytest.mark.parametrize("method", SHARING)
def test_an_attempt_is_a_step_of_the_method(method: str, in_memory: bool) -> None:
    found = wide("concatsquash", torch.float64, ROWS, "exact", shared_time=True)
    y = torch.randn(ROWS, 3, dtype=torch.float64)
    tried = attempt(found, y, method, [2, 3], slopes_in_memory=in_memory)
    y1, last, middle, errors = reference(found, y, method)
    torch.testing.assert_close(tried.y1, y1)
    torch.testing.assert_close(tried.last_slope, last)
    torch.testing.assert_close(tried.y_mid, middle)
    sums = errors.double().square().sum(0)
    expected = torch.stack([sums[:2].sum(), sums[2]])
    # of the errors, sums of terms of order one that cancel, rounding leaves 1e-16 / tolerance
    torch.testing.assert_close(tried.sums.view(len(expected), -1).sum(1), expected, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_part_may_end_inside_a_tile(dtype: torch.dtype) -> None:
    found = wide("wide_state", dtype, ROWS, shared_time=True)
    y = torch.randn(ROWS, 20, dtype=dtype)
    tried = attempt(found, y, "bosh3", [7, 20])
    y1, _, _, errors = reference(found, y, "bosh3")
    torch.testing.assert_close(tried.y1, y1)
    sums = errors.double().square().sum(0)
    torch.testing.assert_close(
        tried.sums.view(2, -1).sum(1),
        torch.stack([sums[:7].sum(), sums[7:].sum()]),
        rtol=1e-2 if dtype == torch.float32 else 1e-9,
        atol=0,
    )
    assert tried.sums.shape == (6,)


def test_a_method_without_error_estimate_is_refused() -> None:
    found = wide("wide_state", torch.float64, 2, shared_time=True)
    with pytest.raises(NotFused, match="without an error estimate"):
        attempt(found, torch.randn(2, 20, dtype=torch.float64), "rk4", [20])
