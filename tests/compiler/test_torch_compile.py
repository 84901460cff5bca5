"""A compiled field inside a model that ``torch.compile`` compiles; in a process of its own, which imports dynamo."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import torch, fastode
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()
field = fastode.compile(lambda t, y: net(y) * torch.cos(t))
t = torch.tensor([0.0, 1.0], dtype=torch.float64)

def model(y):
    return torch.tanh(fastode.odeint(field, 2 * y, t, method="rk4")[-1])

y = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
expected = model(y)
found = torch.compile(model, backend="eager")(y)
assert fastode.last_stats().engine == "compiled", fastode.last_stats()
torch.testing.assert_close(found, expected)
inputs = [y, *net.parameters()]
torch.testing.assert_close(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), inputs))
"""


@pytest.mark.slow
def test_a_compiled_model_may_contain_a_native_solve():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
