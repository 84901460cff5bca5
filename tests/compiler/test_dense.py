"""Dense output of compiled fields: the polynomials of the step loop, from the native call that takes the steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastode

from .running import assert_close
from .solving import ADAPTIVE, EXPLICIT, Timed

ENDS = {"forward": (0.0, 1.0), "backward": (1.0, 0.2)}


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


def asked(method: str) -> dict[str, object]:
    steps = {"first_step": 0.09, "min_step": 0.09, "max_step": 0.09}
    return {"method": method, "options": steps if method in ADAPTIVE else {"step_size": 0.09}}


def times_between(ends: tuple[float, float]) -> Tensor:
    x = torch.tensor([[0.0, 1.0, 0.5], [0.03, 0.7, 0.99]])
    return torch.lerp(*torch.tensor(ends), x)


@pytest.mark.parametrize("direction", ENDS)
@pytest.mark.parametrize("shape", [(5, 2), (2,), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("method", EXPLICIT)
def test_every_method_has_the_solution_of_the_step_loop(method, shape, direction):
    func, y0, t = Timed(), torch.randn(shape, requires_grad=True), times_between(ENDS[direction])
    inputs = [y0, *func.parameters()]
    found = []
    for field in (fastode.compile(func), func):
        with fastode.stats() as log:
            solution = fastode.odeint_dense(field, y0, *ENDS[direction], **asked(method))
        values = solution(t)
        weights = torch.cos(torch.arange(values.numel(), dtype=values.dtype)).view_as(values)
        found.append((log[0], solution, values, torch.autograd.grad((values * weights).sum(), inputs)))
    (ours, solution, values, grads), (theirs, loop, expected, wanted) = found
    assert (ours.engine, ours.reason) == ("compiled", "") and theirs.engine != "compiled"
    assert (ours.n_func, ours.n_accepted) == (theirs.n_func, theirs.n_accepted)
    assert solution.ends == loop.ends
    assert values.shape == (2, 3, *shape)
    assert_close(values.detach(), expected.detach(), 1e-12, "values")
    for i, (g, e) in enumerate(zip(grads, wanted, strict=True)):
        assert_close(g, e, 1e-10, f"gradient {i}")


@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "rk4"])
def test_in_float32_with_arguments_and_little_memory(method):
    y0, rate = torch.randn(6, 2), torch.rand(6, 1)
    y0, rate = y0.float().requires_grad_(), rate.float().requires_grad_()
    t = torch.linspace(0, 1, 9).float()
    found = []
    for memory in (None, 1):
        field = fastode.compile(lambda t, y, rate: torch.sin(t - rate * y), memory=memory)
        solution = fastode.odeint_dense(field, y0, t[0], t[-1], rate, **asked(method))
        found.append((solution(t), *torch.autograd.grad(solution(t).square().sum(), [y0, rate])))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    loop = fastode.odeint_dense(lambda t, y, rate: torch.sin(t - rate * y), y0, t[0], t[-1], rate, **asked(method))
    torch.testing.assert_close(found[0][0], loop(t), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(fastode.odeint_dense(field, y0, t[0], t[-1], rate, **asked(method))(t), found[0][0])


def test_the_gradient_of_the_time_asked_for_is_the_slope_of_the_polynomial():
    field, t = fastode.compile(lambda t, y: -y), torch.tensor(0.4, requires_grad=True)
    y = fastode.odeint_dense(field, torch.ones(1, 1), 0.0, 1.0)(t)
    (slope,) = torch.autograd.grad(y.sum(), t)
    torch.testing.assert_close(slope, -y[0, 0], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"method": "rk4", "options": {"step_size": 0.1, "interp": "cubic"}}, "option 'interp'"),
        ({"options": {"norm": "max"}}, "option 'norm'"),
        ({"method": "gl4", "options": {"step_size": 0.1}}, "implicit"),
        ({"t1": torch.tensor(1.0, requires_grad=True)}, "gradients of the ends"),
    ],
)
def test_what_the_loop_does(how, reason):
    y0, given = torch.randn(3, 2), {"t0": 0.0, "t1": 1.0, **how}
    field = fastode.compile(lambda t, y: -y)
    found = fastode.odeint_dense(field, y0, **given)(0.3)
    assert fastode.last_stats().engine != "compiled" and reason in fastode.last_stats().reason
    assert torch.equal(found, fastode.odeint_dense(field.func, y0, **given)(0.3))


def test_failures_are_those_of_the_loop():
    y0 = torch.ones(3, 2)
    for field in (fastode.compile(lambda t, y: y * y), lambda t, y: y * y):
        with pytest.raises(fastode.SolverError):
            fastode.odeint_dense(field, y0, 0.0, 2.0)
    with pytest.raises(fastode.InvalidArgument, match="strictly increasing"):
        fastode.odeint_dense(fastode.compile(lambda t, y: -y), y0, 1.0, 1.0)
