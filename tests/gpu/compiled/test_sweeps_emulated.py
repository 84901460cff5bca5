"""The machine code of sweeps, executed instruction by instruction on the CPU, with a watch on races."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compiler.fields import lotka_volterra

from fastode.compiler.gpu.configurations import sweep_settings_for
from fastode.compiler.gpu.fused_sweep import FusedSweep
from fastode.compiler.gpu.rows import RowRecord
from fastode.compiler.gpu.sweep import sweep_steps
from fastode.compiler.gpu.sweep_rows import sweep_rows
from fastode.methods import lookup
from gpu.fields import Traced, traced, wide
from gpu.sweeps import Leaves, close, step_of

emulator = pytest.importorskip("gpu_lab.emulator")

#: more than a tile, and not a multiple of one
ROWS = 19
STEPS = [[0.0, 0.3, 0.3, 0.0, 1.0], [0.3, 0.2, 0.5, 1.0, 3.0]]
TIMES = [0.2, 0.4, 0.5]


def field(name: str, dtype: torch.dtype, divergence: str | None, shared_time: bool) -> Traced:
    if name == "lotka_volterra":
        return traced(lotka_volterra, torch.ones(ROWS, 2, dtype=dtype), shared_time=shared_time)
    return wide(name, dtype, ROWS, divergence, shared_time)


@pytest.mark.parametrize("rows", [False, True], ids=["shared_steps", "own_steps"])
@pytest.mark.parametrize(
    ("name", "dtype", "divergence", "keep"),
    [
        ("lotka_volterra", torch.float32, None, True),
        ("lotka_volterra", torch.float64, None, False),
        ("two_hidden_layers_of_64", torch.float32, "exact", False),
        ("padded_layers", torch.float64, "hutchinson", True),
    ],
    ids=str,
)
def test_gradients_are_those_of_autograd(
    name: str, dtype: torch.dtype, divergence: str | None, keep: bool, rows: bool
) -> None:
    found = field(name, dtype, divergence, not rows)
    tableau = lookup("bosh3")
    y = 0.5 + 0.5 * torch.rand(ROWS, found.features, dtype=dtype)
    grad = torch.randn(len(TIMES), ROWS, found.features, dtype=dtype)
    leaves = Leaves.of(found, y)
    slope, state = leaves.slope(found.program), leaves.y
    states, outputs = [], []
    for t, dt, t1, first, end in torch.tensor(STEPS, dtype=torch.float64):
        states.append(state.detach().to(dtype))
        new, quartic = step_of(tableau, slope, t, dt, state)
        outputs += [new if u == t1 else quartic((u - t) / dt) for u in TIMES[int(first) : int(end)]]
        state = new
    expected = leaves.gradients(torch.stack(outputs), grad)
    settings = replace(sweep_settings_for(found.program, dtype), keep_gradients=keep)
    sweep = FusedSweep(
        found.program, dtype, not rows, range(len(found.constants)), range(len(found.arguments)), settings
    )
    inputs = (found.arguments, found.constants)
    times = torch.tensor(TIMES, dtype=torch.float64)
    with emulator.emulated_gpu(races=True):
        if rows:
            numbers = torch.tensor(STEPS, dtype=torch.float64)[:, :3].expand(ROWS, -1, -1).contiguous()
            record = RowRecord(numbers, torch.stack(states, 1))
            counts = [torch.full((ROWS,), n) for n in (len(STEPS), len(TIMES))]
            given = (times.expand(ROWS, -1).contiguous(), counts[1], grad.transpose(0, 1).contiguous())
            swept = sweep_rows(sweep, tableau, record, counts[0], *given, torch.zeros_like(y), *inputs)
        else:
            steps = torch.tensor(STEPS, dtype=torch.float64)
            swept = sweep_steps(sweep, tableau, steps, torch.stack(states), times, 0, grad, *inputs)
    close(
        [swept.y, *swept.arguments.values(), *swept.constants.values()],
        [expected[0], *expected[1], *expected[2]],
        dtype,
    )
