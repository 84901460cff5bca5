"""Solves on a grid in Triton's interpreter are those of the CPU engine."""

from __future__ import annotations

import pytest
import torch
from compiler.fields import pendulum
from compiler.solving import FIXED
from torch import Tensor

from fastode.compiler.engine import Job, Lowered
from fastode.compiler.gpu.grid import solve_grid
from fastode.compiler.steps import GridSteps
from fastode.methods import lookup
from gpu.fields import Traced, traced, wide

#: the start, a point of the grid, two places between points, and the end
STEPS = GridSteps([0.0, 0.25, 0.375, 0.5, 1.0], [-1, 0, 1, 1, 3], [0.0, 1.0, 0.25, 0.75, 1.0])


def check(
    found: Traced, y0: Tensor, method: str, tolerance: float, float32_times: bool = False, **settings: object
) -> None:
    """Outputs, states at the starts of the steps and the last state are those of the CPU engine."""
    shapes = tuple(tuple(c.shape) for c in found.constants)
    lowered, tableau = Lowered(found.program, shapes), lookup(method)
    rows, features = y0.shape
    job = Job(lowered, tableau, method, [0.0] * 5, STEPS, float32_times, rows, features)
    expected, _ = job.run(y0, found.arguments, found.constants, keep=False)
    out, record = torch.full_like(expected, torch.nan), torch.full((4, *y0.shape), torch.nan, dtype=y0.dtype)
    inputs = (found.arguments, found.constants, STEPS, out, float32_times, record)
    last = solve_grid(found.fused(**settings), tableau, y0, *inputs)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(last, out[-1])
    assert torch.equal(record[0], y0)
    torch.testing.assert_close(record[1], expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("in_memory", [False, True], ids=["registers", "memory"])
@pytest.mark.parametrize("method", FIXED)
def test_methods_step_as_the_cpu(method: str, in_memory: bool) -> None:
    y0 = torch.randn(17, 2, dtype=torch.float64)
    check(traced(pendulum, y0, shared_time=True), y0, method, 1e-13, slopes_in_memory=in_memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["two_hidden_layers_of_64", "wide_state", "conditioned", "concatsquash"])
def test_wide_fields_step_as_the_cpu(name: str, dtype: torch.dtype) -> None:
    found = wide(name, dtype, 17, shared_time=True)
    check(found, torch.randn(17, found.features, dtype=dtype), "rk4", 2e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_density_is_one_more_feature(divergence: str) -> None:
    found = wide("two_hidden_layers_of_64", torch.float64, 17, divergence, shared_time=True)
    check(found, torch.randn(17, 3, dtype=torch.float64), "rk4", 1e-13)


def test_times_of_float32_round_to_it() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return y * torch.cos(1e6 * t)

    y0 = torch.randn(3, 1, dtype=torch.float64)
    # a tenth has no short form: rounded stage times differ
    third = GridSteps(torch.tensor([0.0, 0.1, 0.3]).double().tolist(), [1], [1.0])
    found = traced(field, y0, shared_time=True)
    ends = []
    for float32_times in (False, True):
        out = torch.full((1, 3, 1), torch.nan, dtype=torch.float64)
        solve_grid(found.fused(), lookup("rk4"), y0, [], [], third, out, float32_times)
        job = Job(Lowered(found.program, ()), lookup("rk4"), "rk4", [0.3], third, float32_times, 3, 1)
        torch.testing.assert_close(out, job.run(y0, [], [], keep=False)[0])
        ends.append(out)
    assert not torch.equal(*ends)


def test_an_empty_batch_stays_empty() -> None:
    y0 = torch.zeros(0, 2, dtype=torch.float64)
    found = traced(pendulum, torch.zeros(3, 2, dtype=torch.float64), shared_time=True)
    out = torch.zeros(5, 0, 2, dtype=torch.float64)
    assert solve_grid(found.fused(), lookup("rk4"), y0, [], [], STEPS, out).shape == (0, 2)
