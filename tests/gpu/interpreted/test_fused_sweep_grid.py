"""Sweeps of grids in Triton's interpreter give the gradients of the CPU engine."""

from __future__ import annotations

import pytest
import torch
from compiler.fields import lotka_volterra
from torch import Tensor

from fastode.compiler.engine import Job, Lowered
from fastode.compiler.gpu.grid import solve_grid
from fastode.compiler.gpu.sweep import sweep_grid
from fastode.compiler.steps import GridSteps
from fastode.methods import lookup
from gpu.fields import Traced, traced, wide
from gpu.sweeps import close, sweeps

# torch.func.jvp uses it

#: outputs at the start, twice in a step, at its end, and at the end of all
STEPS = GridSteps([0.1, 0.3, 0.4, 0.7], [-1, 0, 0, 1, 2], [0.0, 0.25, 0.5, 1.0, 1.0])


def check(found: Traced, rows: int, method: str, steps: GridSteps = STEPS, float32_times: bool = False) -> None:
    """All gradients against the CPU engine's in float64."""
    y0 = 0.5 + 0.5 * torch.rand(rows, found.features, dtype=found.dtype)
    count = len(steps.output_step)
    grad = torch.randn(count, rows, found.features, dtype=found.dtype)

    def double(xs: list[Tensor]) -> list[Tensor]:
        return [x.double() for x in xs]

    lowered = Lowered(found.program, tuple(tuple(c.shape) for c in found.constants))
    job = Job(lowered, lookup(method), method, [0.0] * count, steps, float32_times, rows, found.features)
    inputs = (y0.double(), double(found.arguments), double(found.constants))
    _, record = job.run(*inputs, keep=True)
    wanted = [True] * (len(found.arguments) + len(found.constants))
    grad_y0, grads = job.sweep(record, grad.double(), *inputs, wanted)
    states = torch.full((len(steps.points) - 1, *y0.shape), torch.nan, dtype=found.dtype)
    out = torch.empty_like(grad)
    solve_grid(found.fused(), lookup(method), y0, found.arguments, found.constants, steps, out, float32_times, states)
    given = (steps, states, grad, found.arguments, found.constants, float32_times)
    swept = sweep_grid(sweeps(found), lookup(method), *given)
    assert all(g is not None for g in grads)
    close([swept.y, *swept.arguments.values(), *swept.constants.values()], [grad_y0, *grads], found.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_outputs_on_the_lines_between_points(method: str, dtype: torch.dtype) -> None:
    check(wide("padded_layers", dtype, 17, shared_time=True), 17, method)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_flows(divergence: str) -> None:
    check(wide("concatsquash", torch.float64, 5, divergence, shared_time=True), 5, "rk4")


def test_times_of_float32() -> None:
    steps = GridSteps([float(torch.tensor(t)) for t in (0.1, 0.3, 0.8)], [1], [1.0])
    check(wide("time_beside_the_state", torch.float64, 3, shared_time=True), 3, "midpoint", steps, True)


def test_one_row_of_columns_backwards() -> None:
    found = traced(lotka_volterra, torch.ones(1, 2, dtype=torch.float64), shared_time=True)
    check(found, 1, "heun3", GridSteps([0.5, 0.2, 0.0], [-1, 1], [0.0, 0.5]))


def test_a_single_point() -> None:
    check(wide("padded_layers", torch.float64, 2, shared_time=True), 2, "rk4", GridSteps([0.5], [-1], [0.0]))
