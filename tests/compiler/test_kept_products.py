"""Products that a solve keeps for its gradient: the same bits with fewer operations, within a bound of memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import fastode
from fastode.compiler import engine, lower
from fastode.compiler.engine import Job
from fastode.nn import CNF, MLPField

STEPS = [
    {"rtol": 1e-5, "atol": 1e-5},
    {"method": "fehlberg2", "rtol": 1e-3, "atol": 1e-3},
    {"method": "rk4", "options": {"step_size": 0.1}},
]


def net(width: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)).to(
        dtype
    )


@pytest.fixture
def records(monkeypatch):
    """The records of the solves that keep one."""
    found, plain = [], Job.run

    def run(job, *args, **more):
        out, record = plain(job, *args, **more)
        found.append(record)
        return out, record

    monkeypatch.setattr(Job, "run", run)
    return found


def gradients(module, rows, memory, asked, dtype):
    field = fastode.compile(lambda t, y: module(y), memory=memory)
    y0 = torch.randn(rows, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = fastode.odeint(field, y0, torch.tensor([0.0, 0.4, 1.0], dtype=dtype), **asked)
    assert fastode.last_stats().engine == "compiled"
    return torch.autograd.grad(y.square().sum(), [y0, *module.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("asked", STEPS, ids=lambda asked: asked.get("method", "dopri5"))
@pytest.mark.parametrize("rows", [1, 33, 150])
def test_kept_products_change_no_bit(rows, asked, dtype, records, monkeypatch):
    module = net(lower.WORTH_KEEPING, dtype)
    kept = gradients(module, rows, None, asked, dtype)
    monkeypatch.setattr(engine, "MEMORY_FOR_PRODUCTS", 0)
    again = gradients(module, rows, None, asked, dtype)
    assert records[0].product_bytes > records[1].product_bytes == 0
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_they_are_the_products_of_every_evaluation(records):
    width, rows = lower.WORTH_KEEPING, 64
    gradients(net(width, torch.float64), rows, None, STEPS[0], torch.float64)
    evaluations = 1 + 6 * records[0].steps
    assert records[0].product_bytes == 8 * rows * (width + 3) * evaluations


def test_a_field_of_few_units_keeps_one_state_a_step(records):
    gradients(net(lower.WORTH_KEEPING - 1, torch.float32), 33, None, STEPS[0], torch.float32)
    assert records[0].states == records[0].steps + 1
    assert records[0].product_bytes == 0


@pytest.mark.parametrize("asked", [STEPS[0], STEPS[2]], ids=["dopri5", "rk4"])
def test_states_and_products_fit_into_the_memory_given(asked, records):
    module, rows, of_one_state = net(lower.WORTH_KEEPING, torch.float64), 64, 64 * 3 * 8
    gradients(module, rows, None, asked, torch.float64)
    states, of_all = records[0].states, records[0].product_bytes
    sizes = []
    for share in (0.0, 0.3, 0.6, 1.0):
        memory = states * of_one_state + int(share * of_all)
        gradients(module, rows, memory, asked, torch.float64)
        assert records[-1].states == states
        assert states * of_one_state + records[-1].product_bytes <= memory
        sizes.append(records[-1].product_bytes)
    assert sizes[0] == 0 and sizes[-1] == of_all
    assert all(a < b for a, b in itertools.pairwise(sizes))


def test_solves_that_wait_for_their_gradients_share_the_memory(records, monkeypatch):
    module, y0, t = (
        net(lower.WORTH_KEEPING, torch.float64),
        torch.randn(64, 3, dtype=torch.float64),
        torch.linspace(0, 1, 2),
    )
    gradients(module, 64, None, STEPS[0], torch.float64)
    of_one = records[0].product_bytes
    monkeypatch.setattr(engine, "MEMORY_FOR_PRODUCTS", of_one + of_one // 2)
    field = fastode.compile(lambda t, y: module(y))

    def waiting() -> torch.Tensor:
        return fastode.odeint(field, y0, t.double(), rtol=1e-5, atol=1e-5)[-1].square().sum()

    records.clear()
    one, two, three = waiting(), waiting(), waiting()
    first, second, third = (r.product_bytes for r in records)
    assert first > second > third and second < first / 2 and first + second + third <= engine.MEMORY_FOR_PRODUCTS
    found = [torch.autograd.grad(loss, module.parameters()) for loss in (one, two, three)]
    assert all(torch.equal(a, b) for grads in found[1:] for a, b in zip(grads, found[0], strict=True))
    del one, two, three
    records.clear()
    kept = waiting()
    assert records[0].product_bytes == first
    del kept


def test_a_flow_of_wide_layers_keeps_its_tangents_too(records):
    width, rows = lower.WORTH_KEEPING, 16
    flow = CNF(MLPField(3, (width, width)).double(), trace="hutchinson")
    flow.log_prob(torch.randn(rows, 3, dtype=torch.float64)).sum().backward()
    assert flow.served_by == ("compiled", "")
    lanes, evaluations = -(-rows // 8) * 8, 1 + 6 * records[0].steps
    assert records[0].product_bytes >= 8 * lanes * 2 * width * evaluations


def test_no_gradient_no_products(records):
    module = net(lower.WORTH_KEEPING, torch.float32)
    fastode.odeint(fastode.compile(lambda t, y: module(y)), torch.randn(5, 3), torch.tensor([0.0, 1.0]))
    with torch.no_grad():
        fastode.odeint(fastode.compile(lambda t, y: module(y)), torch.randn(5, 3), torch.tensor([0.0, 1.0]))
    assert records[0] is not None and records[1] is None
