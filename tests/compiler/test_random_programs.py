"""Random fields: value, vector-Jacobian product and exact divergence are those of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fastode
from fastode.nn.divergence import autograd_divergence

from .running import assert_close, native

TOLERANCE = 1e-11

#: values stay of order one, so that errors are those of rounding
UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.tanh,
    torch.sigmoid,
    torch.sin,
    torch.cos,
    torch.erf,
    F.softsign,
    F.softplus,
    F.silu,
    F.gelu,
    torch.relu,
    torch.abs,
    torch.neg,
    lambda x: F.leaky_relu(x, 0.1),
    lambda x: torch.exp(torch.tanh(x)),
    lambda x: torch.log(1 + x * x),
    lambda x: torch.sqrt(0.5 + x * x),
    lambda x: torch.tanh(x) ** 3,
    lambda x: 1 / (1 + x * x),
    lambda x: 0.5 - 2 * x,
    lambda x: x.clamp(-0.3, 0.8),
    lambda x: F.softmax(x, -1),
    lambda x: x.flip(-1),
    lambda x: x.cumsum(-1),
]
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    torch.sub,
    lambda x, y: torch.tanh(x) * torch.sin(y),
    lambda x, y: x / (1 + y * y),
    lambda x, y: torch.where(x > y, torch.sin(x), torch.tanh(y)),
    lambda x, y: torch.lerp(x, y, 0.3),
]


@dataclass(frozen=True)
class Recipe:
    """How a field is put together.

    Attributes:
        features, extra: of the state and of the argument that has an entry for each row.
        steps: ``(kind, a, b, n)``: what is done, with which earlier values, and a number that it may need.
    """

    features: int
    extra: int
    rows: int
    seed: int
    steps: tuple[tuple[str, int, int, int], ...]


class Cooked(nn.Module):
    """The field of a recipe. Every value is [B, width]; a step makes one from earlier ones."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.layers = nn.ModuleDict()
        self.vector = nn.Parameter(torch.randn(recipe.features))
        widths = [recipe.features, recipe.extra, 1, recipe.features]
        for i, step in enumerate(recipe.steps):
            widths.append(self._width(f"layer {i}", widths, *step))
        self.layers["last"] = nn.Linear(widths[-1], recipe.features)

    def _width(self, name: str, widths: list[int], kind: str, a: int, b: int, n: int) -> int:
        wa, wb = widths[a % len(widths)], widths[b % len(widths)]
        if kind == "affine":
            width = 1 + n % 7
            self.layers[name] = nn.Linear(wa, width, bias=n % 2 == 0)
            return width
        if kind == "binary":
            return max(wa, wb) if 1 in (wa, wb) else min(wa, wb)
        return {"unary": wa, "cat": wa + wb, "slice": wa - n % wa, "sum": 1}[kind]

    def forward(self, t: Tensor, y: Tensor, extra: Tensor) -> Tensor:
        values = [y, extra, t.expand(y.shape[0], 1), self.vector.expand(y.shape)]
        for i, (kind, a, b, n) in enumerate(self.recipe.steps):
            va, vb = values[a % len(values)], values[b % len(values)]
            if kind == "unary":
                value = UNARY[n % len(UNARY)](va)
            elif kind == "affine":
                value = self.layers[f"layer {i}"](va)
            elif kind == "cat":
                value = torch.cat([va, vb], 1)
            elif kind == "slice":
                value = va[:, n % va.shape[1] :]
            elif kind == "sum":
                value = va.sum(1, keepdim=True) / va.shape[1] if n % 2 else va.sum(1, keepdim=True)
            else:
                if 1 not in (va.shape[1], vb.shape[1]):
                    width = min(va.shape[1], vb.shape[1])
                    va, vb = va[:, :width], vb[:, :width]
                value = BINARY[n % len(BINARY)](va, vb)
            values.append(value)
        return self.layers["last"](values[-1]) + 0.1 * y


KINDS = st.sampled_from(["unary", "unary", "binary", "binary", "affine", "cat", "slice", "sum"])
NUMBER = st.integers(0, 200)
RECIPES = st.builds(
    Recipe,
    features=st.integers(1, 5),
    extra=st.integers(1, 3),
    rows=st.sampled_from([0, 1, 2, 5, 16, 19, 33]),
    seed=st.integers(0, 1000),
    steps=st.lists(st.tuples(KINDS, NUMBER, NUMBER, NUMBER), min_size=1, max_size=8).map(tuple),
)
#: the same examples in every run
FEW = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def made(recipe: Recipe) -> tuple[Cooked, float, Tensor, Tensor]:
    """The field, a time, states and arguments."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(recipe.seed)
    func = Cooked(recipe)
    y = torch.randn(recipe.rows, recipe.features, requires_grad=True)
    extra = torch.randn(recipe.rows, recipe.extra, requires_grad=True)
    return func, float(torch.rand(())), y, extra


def gradients(value: Tensor, cotangent: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, inputs, cotangent, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def assert_native_is(
    expected: Tensor, func: Cooked, t: float, y: Tensor, extra: Tensor, divergence: str | None, args: list[Tensor]
) -> None:
    """The native value, and its vector-Jacobian product with the state, the arguments and the parameters."""
    compiled = fastode.compile(func).native(y, (extra,), divergence=divergence)
    values = compiled.traced.constants.values((extra,))
    constants = compiled.constants((extra,), y.dtype)
    cotangent = torch.randn(expected.shape)
    with torch.no_grad():
        value, grads = native(compiled.traced.program, t, y.detach(), args, [c.detach() for c in constants], cotangent)
    assert_close(value, expected.detach(), TOLERANCE, "value")
    parameters = list(func.parameters())
    wanted = gradients(expected, cotangent, [y, extra, *parameters])
    # those of the parameters by way of the constants that are computed from them
    trained = [(v, g) for v, g in zip(values, grads[1 + len(args) :], strict=True) if v.requires_grad]
    of_parameters = [torch.zeros_like(p) for p in parameters]
    if trained:
        outputs, cotangents = [v for v, _ in trained], [g.view_as(v) for v, g in trained]
        found = torch.autograd.grad(outputs, parameters, cotangents, allow_unused=True)
        of_parameters = [z if g is None else g for z, g in zip(of_parameters, found, strict=True)]
    for i, (g, e) in enumerate(zip([grads[0], grads[1], *of_parameters], wanted, strict=True)):
        assert_close(g, e, TOLERANCE, f"gradient {i}")


@FEW
@given(RECIPES)
def test_a_random_field_and_its_vector_jacobian_product_are_those_of_torch(recipe):
    func, t, y, extra = made(recipe)
    expected = func(torch.tensor(t), y, extra)
    assert_native_is(expected, func, t, y, extra, None, [extra.detach()])


@FEW
@given(RECIPES)
def test_the_divergence_of_a_random_field_and_its_gradients_are_those_of_torch(recipe):
    func, t, y, extra = made(recipe)
    value, divergence = autograd_divergence(lambda t, y: func(t, y, extra), torch.tensor(t), y)
    expected = torch.cat([value, divergence[:, None]], 1)
    assert_native_is(expected, func, t, y, extra, "exact", [extra.detach()])


@settings(FEW, max_examples=25)
@given(RECIPES)
def test_a_random_field_is_solved_as_by_the_loop(recipe):
    func, _, y0, extra = made(recipe)
    how = {"method": "rk4", "options": {"step_size": 0.3}}
    t = torch.tensor([0.0, 0.5, 1.0])
    inputs = [y0, extra, *func.parameters()]
    expected = fastode.odeint(func, y0, t, extra, **how)
    found = fastode.odeint(fastode.compile(func), y0, t, extra, **how)
    assert fastode.last_stats().engine == "compiled"
    assert_close(found.detach(), expected.detach(), 10 * TOLERANCE, "solution")
    cotangent = torch.randn(expected.shape)
    for g, e in zip(gradients(found, cotangent, inputs), gradients(expected, cotangent, inputs), strict=True):
        assert_close(g, e, 10 * TOLERANCE, "gradient")
