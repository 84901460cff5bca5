"""Training compiled and uncompiled layers leads to the same parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fastode.nn import CNF, MLPField, NeuralODE

from .solving import Timed

STEPS = 100


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


def loss_of(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, CNF):
        return -layer.log_prob(x).mean()
    return (layer(x) - 2 * x.flip(1)).square().mean()


def trained(layer: nn.Module) -> tuple[list[Tensor], list[float]]:
    """The parameters and losses after some steps on data that follow a seed, as Hutchinson's noise does."""
    torch.manual_seed(1)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(STEPS):
        x = torch.randn(16, 2) @ torch.tensor([[1.5, 0.4], [0.0, 0.5]]) + 0.5
        optimiser.zero_grad()
        loss = loss_of(layer, x)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return [p.detach() for p in layer.parameters()], losses


LAYERS = {
    "flow-exact": lambda c: CNF(MLPField(2, (8,)), trace="exact", compile=c),
    "flow-exact-of-a-plain-field": lambda c: CNF(Timed(width=8), 2, trace="exact", compile=c),
    "flow-hutchinson": lambda c: CNF(MLPField(2, (8,)), trace="hutchinson", compile=c),
    "flow-gaussian-noise": lambda c: CNF(Timed(width=8), 2, trace="hutchinson", noise="gaussian", compile=c),
    "flow-rk4": lambda c: CNF(MLPField(2, (8,)), method="rk4", options={"step_size": 0.25}, compile=c),
    "neural-ode": lambda c: NeuralODE(Timed(width=8), compile=c),
    "neural-ode-rk4": lambda c: NeuralODE(MLPField(2, (8,)), method="rk4", options={"step_size": 0.25}, compile=c),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_hundred_steps_of_adam_lead_to_the_same_parameters(name):
    native, loop = (LAYERS[name](compile) for compile in (True, False))
    loop.load_state_dict(native.state_dict())
    start = [p.detach().clone() for p in native.parameters()]
    found, losses = trained(native)
    expected, expected_losses = trained(loop)
    assert native.served_by == ("compiled", "") and loop.served_by[0] != "compiled"
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)
    assert losses == pytest.approx(expected_losses, rel=1e-8, abs=1e-8)
    assert sum(losses[-10:]) < sum(losses[:10])
    assert all(float((p - q).abs().max()) > 0.01 for p, q in zip(found, start, strict=True))


@pytest.mark.parametrize("name", ["flow-exact", "flow-hutchinson", "neural-ode"])
def test_a_copy_goes_on_training_where_the_original_was(name):
    layer = LAYERS[name](True)
    trained(layer)
    other = copy.deepcopy(layer)
    (found, losses), (expected, expected_losses) = trained(other), trained(layer)
    assert losses == expected_losses
    assert all(torch.equal(p, q) for p, q in zip(found, expected, strict=True))
