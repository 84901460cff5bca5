"""The steps of torchode, which has the same method, norm and controller."""

from __future__ import annotations

import pytest
import torch

from fastode import solve

from .fields import van_der_pol

torchode = pytest.importorskip("torchode", reason="torchode is not installed (it is in the extra 'bench')")


def test_every_row_takes_the_steps_that_torchode_takes() -> None:
    mu = torch.linspace(0.5, 10, 32, dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(32, 1)
    term = torchode.ODETerm(lambda t, y: van_der_pol(t, y, mu))
    control = torchode.IntegralController(atol=1e-6, rtol=1e-6, term=term)
    zero = torch.zeros(32, dtype=torch.float64)
    problem = torchode.InitialValueProblem(y0, zero, zero + 5.0)
    with torch.no_grad():
        theirs = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control).solve(problem)
    ours = solve(van_der_pol, y0, (0.0, 5.0), args=(mu,), rtol=1e-6, atol=1e-6)
    assert (ours.stats.n_steps - theirs.stats["n_steps"]).abs().max() <= 2
    torch.testing.assert_close(ours.y, theirs.ys[:, -1], rtol=1e-3, atol=1e-3)
