"""Exact and estimated divergences of programs against the autograd trace, values and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import fastode
from fastode.compiler.divergence import is_closed_form
from fastode.compiler.evaluate import evaluate
from fastode.nn import CNF, MLPField
from fastode.nn.divergence import autograd_divergence, autograd_jvp_dot

from .running import native


class Perceptron(nn.Module):
    """``affines`` affine maps with an activation between them, and time as one more input."""

    def __init__(self, dim: int, hidden: int, affines: int, activation: nn.Module, concat: bool = False) -> None:
        super().__init__()
        self.concat = concat
        sizes = [dim + concat, *[hidden] * (affines - 1), dim]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), activation]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, t, y):
        return self.net(torch.cat([y, t.expand(y.shape[0], 1)], 1) if self.concat else y)


class Residual(nn.Module):
    """``y + g(y)`` twice: the Jacobian is no single product."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a, self.b = Perceptron(dim, 9, 2, nn.SiLU()), Perceptron(dim, 9, 2, nn.Tanh())

    def forward(self, t, y):
        y = y + self.a(t, y)
        return y + self.b(t, y) * torch.cos(t)


def lorenz(t, y):
    a, b, c = y.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


FIELDS = {
    **{
        f"{n}-affine-{d}d": (lambda n=n, d=d: Perceptron(d, 11, n, nn.Tanh()), d)
        for n in range(1, 6)
        for d in (1, 2, 7)
    },
    "64d": (lambda: Perceptron(64, 48, 3, nn.Softplus()), 64),
    "64d-deep": (lambda: Perceptron(64, 20, 5, nn.Tanh()), 64),
    "concat": (lambda: Perceptron(3, 12, 3, nn.Sigmoid(), concat=True), 3),
    "silu": (lambda: Perceptron(4, 10, 3, nn.SiLU()), 4),
    "gelu": (lambda: Perceptron(4, 10, 2, nn.GELU()), 4),
    "residual": (lambda: Residual(3), 3),
    "concatsquash": (lambda: MLPField(3, (8, 9)), 3),
    "concat-mlp": (lambda: MLPField(2, (8,), layer="concat", activation="softplus"), 2),
    "lorenz": (lambda: lorenz, 3),
    "linear": (lambda: lambda t, y: -y * 2 + t, 2),
    "constant": (lambda: lambda t, y: torch.ones_like(y) * t, 2),
}


def made(name: str):
    torch.manual_seed(0)
    make, dim = FIELDS[name]
    field = make()
    return field.double() if isinstance(field, nn.Module) else field, dim


@pytest.mark.parametrize("name", list(FIELDS))
def test_the_exact_divergence_is_the_trace_that_autograd_finds(name):
    field, dim = made(name)
    y = torch.randn(9, dim, dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    compiled = fastode.compile(field).native(y, divergence="exact")
    constants = compiled.constants((), y.dtype)
    parameters = list(field.parameters()) if isinstance(field, nn.Module) else []
    value, divergence = autograd_divergence(field, t, y)
    found = evaluate(compiled.traced.program, t, y, (), constants)[0]
    torch.testing.assert_close(found[:, :dim], value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[:, dim], divergence, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        by_engine, _ = native(compiled.traced.program, 0.3, y, [], compiled.constants((), y.dtype))
    torch.testing.assert_close(by_engine, found, rtol=1e-12, atol=1e-12)
    if parameters:
        weights = torch.randn_like(divergence)
        g = torch.autograd.grad((divergence * weights).sum(), parameters, allow_unused=True)
        h = torch.autograd.grad((found[:, dim] * weights).sum(), parameters, allow_unused=True)
        for a, b, p in zip(h, g, parameters, strict=True):
            zero = torch.zeros_like(p)
            torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", list(FIELDS))
def test_hutchinsons_estimate_is_that_of_autograd(name):
    field, dim = made(name)
    y, e = torch.randn(9, dim, dtype=torch.float64), torch.randn(9, dim, dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    compiled = fastode.compile(field).native(y, divergence="hutchinson")
    _, divergence = autograd_jvp_dot(field, t, y, e)
    with torch.no_grad():
        found, _ = native(compiled.traced.program, 0.3, y, [e], compiled.constants((), y.dtype))
    torch.testing.assert_close(found[:, dim], divergence, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        *[(name, True) for name in ("1-affine-2d", "2-affine-7d", "3-affine-7d", "concat", "silu", "linear")],
        ("4-affine-2d", False),
        ("residual", False),
    ],
)
def test_two_and_three_affine_maps_have_a_closed_form(name, closed):
    field, dim = made(name)
    program = fastode.compile(field).native(torch.randn(3, dim, dtype=torch.float64)).traced.program
    assert is_closed_form(program) is closed


def test_the_closed_form_is_one_more_product_whatever_the_dimension():
    counts = []
    for dim in (2, 40):
        field = Perceptron(dim, 16, 3, nn.Tanh()).double()
        y = torch.randn(3, dim, dtype=torch.float64)
        plain, exact = fastode.compile(field).native(y), fastode.compile(field).native(y, divergence="exact")
        counts.append([sum(op.name == "affine" for op in n.traced.program.ops) for n in (plain, exact)])
    assert counts == [[3, 4], [3, 4]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("name", ["2-affine-2d", "3-affine-7d", "4-affine-2d", "residual", "concatsquash", "64d"])
def test_a_native_flow_has_the_density_and_the_gradients_of_the_step_loop(name, trace, dtype):
    field, dim = made(name)
    field = field.to(dtype)
    flow, loop = CNF(field, dim, trace=trace), CNF(field, dim, trace=trace, compile=False)
    x, e = torch.randn(21, dim, dtype=dtype, requires_grad=True), torch.randn(21, dim, dtype=dtype)
    results = []
    for cnf in (flow, loop):
        with fastode.stats() as log:
            density = cnf.log_prob(x, noise=e)
            gradients = torch.autograd.grad(density.mean(), [x, *field.parameters()])
        results.append((density, gradients, log[0].n_func, log[0].n_accepted))
    assert flow.served_by == ("compiled", "")
    assert results[0][2:] == results[1][2:]
    tolerance = 1e-11 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(results[0][0], results[1][0], rtol=tolerance, atol=tolerance)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def test_trained_parameters_agree_after_100_steps():
    trained = []
    for compiled in (True, False):
        torch.manual_seed(1)
        flow = CNF(Perceptron(2, 8, 3, nn.Tanh()).double(), 2, compile=compiled)
        optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
        data = torch.randn(40, 2, dtype=torch.float64) * torch.tensor([0.5, 2.0], dtype=torch.float64)
        for _ in range(100):
            optimiser.zero_grad()
            (-flow.log_prob(data).mean()).backward()
            optimiser.step()
        trained.append([p.detach().clone() for p in flow.parameters()])
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
