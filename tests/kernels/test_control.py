"""The controller of one shared step and that of rows decide alike."""

from __future__ import annotations

import math

import pytest
import torch

from fastode.controller import Controller
from fastode.kernels.reference import control

ERRORS = [0.0, 5e-324, 1e-30, 1e-8, 0.5, 0.999999, 1.0, 1.0000001, 2.0, 1e8, 1e300, math.inf, math.nan]
CONTROLLERS = {
    "default": Controller(order=5),
    "limits": Controller(order=3, dt_min=0.05, dt_max=0.4),
    "cautious": Controller(order=2, safety=0.5, factor_min=0.1, factor_max=3.0),
}


@pytest.mark.parametrize("controller", CONTROLLERS.values(), ids=CONTROLLERS)
@pytest.mark.parametrize("size", [0.01, 0.05, 0.3, 0.4, 0.7])
def test_rows_and_a_shared_step_decide_alike(controller: Controller, size: float) -> None:
    err = torch.tensor([*ERRORS, *torch.rand(50, dtype=torch.float64).mul(3).tolist()], dtype=torch.float64)
    dt = torch.full_like(err, -size)
    accept, t, after = control(torch.zeros_like(err), dt, err, torch.ones_like(err, dtype=torch.bool), controller)
    for i, e in enumerate(err.tolist()):
        expected, following = controller.control(e, size)
        assert bool(accept[i]) == expected
        assert float(t[i]) == (-size if expected else 0.0)
        # a NaN asks for the smallest step, which a shared clock applies when it proposes
        assert -float(after[i]) == pytest.approx(controller.clamp(following), rel=1e-14)


def test_rows_that_do_not_run_stay_as_they_are() -> None:
    err = torch.tensor([0.1, 0.1, 5.0], dtype=torch.float64)
    running = torch.tensor([True, False, False])
    t, dt = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
    accept, after, size = control(t, dt, err, running, Controller(order=5))
    assert accept.tolist() == [True, False, False]
    assert after.tolist() == [1.5, 2.0, 3.0]
    assert size[1:].tolist() == [0.5, 0.5]
