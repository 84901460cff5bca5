"""Values and gradients of native solves have the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.nn import CNF, MLPField

THREADS = [1, 2, 3]


def on_threads(run: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
    """The results of ``run`` for every number of threads."""
    results = []
    for n in THREADS:
        torch.set_num_threads(n)
        results.append([x.detach().clone() for x in run()])
    return results


def assert_same_bits(results: list[list[Tensor]]) -> None:
    for n, other in zip(THREADS[1:], results[1:], strict=True):
        for i, (x, y) in enumerate(zip(results[0], other, strict=True)):
            assert torch.equal(x, y), f"result {i} on {n} threads"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_solve_and_its_gradients_have_the_same_bits(method, dtype):
    net = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 3)).to(dtype)
    field = fastode.compile(lambda t, y, k: net(y) * torch.cos(t) - k * y)
    y0 = torch.randn(2003, 3, dtype=dtype, requires_grad=True)
    k = torch.rand(2003, 1, dtype=dtype, requires_grad=True)
    t = torch.linspace(0, 1, 4, dtype=dtype)

    def run() -> list[Tensor]:
        y = fastode.odeint(field, y0, t, k, rtol=1e-4, atol=1e-4, method=method)
        assert fastode.last_stats().engine == "compiled"
        return [y, *torch.autograd.grad(y.sin().sum(), [y0, k, *net.parameters()])]

    torch.set_num_threads(3)
    assert field.native(y0, (k,)).lowered.threads(len(y0)) == 3, "the batch is too small to test anything"
    assert_same_bits(on_threads(run))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_training_step_of_a_flow_has_the_same_bits(trace):
    flow = CNF(MLPField(2, (16, 16)), trace=trace, rtol=1e-4, atol=1e-4)
    x, noise = torch.randn(1501, 2), torch.randn(1501, 2).sign()

    def run() -> list[Tensor]:
        torch.manual_seed(0)
        for p in flow.parameters():
            nn.init.normal_(p, std=0.4)
        optimiser = torch.optim.Adam(flow.parameters(), lr=0.01)
        for _ in range(2):
            optimiser.zero_grad()
            loss = -flow.log_prob(x, noise=noise).mean()
            assert flow.served_by == ("compiled", "")
            loss.backward()
            optimiser.step()
        return [loss, *flow.parameters()]

    torch.set_num_threads(3)
    native = flow.compiled.field(flow.func).native(x, divergence=trace)
    assert native.lowered.threads(len(x)) == 3, "the batch is too small to test anything"
    assert_same_bits(on_threads(run))
