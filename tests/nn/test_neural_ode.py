"""NeuralODE as a layer."""

import math

import pytest
import torch

from fastode.nn import MLPField, NeuralODE

GRADIENTS = ["autograd", "discrete", "backsolve"]


class Decay(torch.nn.Module):
    """``dy/dt = -rate y``, for tensors and pairs of tensors."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, t, y):
        return tuple(-self.rate * p for p in y) if isinstance(y, tuple) else -self.rate * y


def test_it_returns_the_state_at_the_end_of_its_span():
    y0 = torch.ones(3, 2, dtype=torch.float64)

    y1 = NeuralODE(Decay(), t_span=(0.0, 2.0), rtol=1e-9, atol=1e-9)(y0)

    torch.testing.assert_close(y1, y0 * math.exp(-3.0), rtol=0, atol=1e-7)


def test_given_times_it_returns_the_path():
    y0, t = torch.ones(3, dtype=torch.float64), torch.linspace(0, 1, 4, dtype=torch.float64)

    path = NeuralODE(Decay(), rtol=1e-9, atol=1e-9)(y0, t)

    torch.testing.assert_close(path, torch.exp(-1.5 * t)[:, None].expand(4, 3), rtol=0, atol=1e-7)


def test_the_span_may_run_backwards():
    y0 = torch.ones(2, dtype=torch.float64)
    forth, back = (NeuralODE(Decay(), t_span=s, rtol=1e-9, atol=1e-9) for s in ((0.0, 1.0), (1.0, 0.0)))

    torch.testing.assert_close(back(forth(y0)), y0, rtol=0, atol=1e-7)


def test_the_state_may_be_a_tuple():
    y0 = (torch.ones(2, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64))

    y1 = NeuralODE(Decay())(y0)

    assert isinstance(y1, tuple) and [p.shape for p in y1] == [(2,), (3, 1)]


def test_the_three_gradients_agree():
    torch.manual_seed(0)
    field, y0 = MLPField(3, (8, 8)).double(), torch.randn(5, 3, dtype=torch.float64)
    results = []
    for gradient in GRADIENTS:
        node = NeuralODE(field, gradient=gradient, rtol=1e-9, atol=1e-9)
        y = y0.clone().requires_grad_()
        results.append(torch.autograd.grad(node(y).sin().sum(), [y, *field.parameters()]))

    for tape, discrete, backsolve in zip(*results, strict=True):
        torch.testing.assert_close(discrete, tape, rtol=1e-10, atol=1e-11)
        # the continuous adjoint is accurate to its solve's tolerance
        torch.testing.assert_close(backsolve, tape, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["autograd", "discrete"])
def test_gradcheck_passes(gradient):
    torch.manual_seed(0)
    node = NeuralODE(MLPField(2, (3,)).double(), gradient=gradient, method="rk4", options={"step_size": 0.25})
    y0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda y, *_: node(y), (y0, *node.parameters()))


def test_settings_of_the_adjoint_reach_it():
    node = NeuralODE(Decay(), gradient="backsolve", adjoint_options={"adjoint_rtol": 1e-9, "adjoint_atol": 1e-9})
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)

    node(y0).sum().backward()

    torch.testing.assert_close(y0.grad, torch.full_like(y0, math.exp(-1.5)), rtol=0, atol=1e-5)
