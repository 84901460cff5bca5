"""Torch's own machinery around a solve: the right answer, or one clear error, never a crash."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import Net, Recorder
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import fastode
from fastode import UnsupportedInput

torchdiffeq = pytest.importorskip("torchdiffeq", reason="states of 16 bits are compared with it")
# torch's own import of its forward-mode rules warns

D = torch.float64
T = torch.tensor([0.0, 0.5, 1.0], dtype=D)
Y = torch.tensor([[0.3, -1.2, 2.0], [0.1, 0.0, -0.7]], dtype=D)
METHODS = pytest.mark.parametrize("method", ["dopri5", "rk4"])
SOLVERS = {
    "odeint": fastode.odeint,
    "backsolve": fastode.odeint_adjoint,
    "discrete": lambda *a, **k: fastode.odeint_adjoint(*a, gradient="discrete", **k),
}
EVERY = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def final(method: str, options: dict[str, Any] | None = None) -> Callable[[Tensor], Tensor]:
    """The sum of the last state as a function of the first."""
    return lambda y0: fastode.odeint(Net(), y0, T, method=method, options=options)[-1].sum()


def by_autograd(method: str) -> Tensor:
    y0 = Y.clone().requires_grad_()
    gradient: Tensor = torch.autograd.grad(final(method)(y0), y0)[0]
    return gradient


def test_vmap_maps_a_grid_method_over_states() -> None:
    net = Net()
    mapped = torch.func.vmap(lambda y: fastode.odeint(net, y, T, method="rk4"))(Y)
    expected = fastode.odeint(net, Y, T, method="rk4").transpose(0, 1)
    torch.testing.assert_close(mapped, expected, rtol=1e-13, atol=1e-13)


def test_vmap_of_adaptive_steps_is_refused_with_what_to_do() -> None:
    net = Net()
    with pytest.raises(UnsupportedInput, match=r"vmap.*first axis.*'rk4'"):
        torch.func.vmap(lambda y: fastode.odeint(net, y, T))(Y)


def test_vmap_over_times_is_refused_with_the_arguments_name() -> None:
    net = Net()
    with pytest.raises(UnsupportedInput, match="the values of `t` are needed"):
        torch.func.vmap(lambda t: fastode.odeint(net, Y, t, method="rk4"))(torch.stack([T, 2 * T]))


@METHODS
def test_func_grad_is_autograds(method: str) -> None:
    torch.testing.assert_close(torch.func.grad(final(method))(Y), by_autograd(method), rtol=1e-10, atol=1e-12)


@METHODS
def test_func_jvp_is_the_gradient_along_a_direction(method: str) -> None:
    along = torch.randn(Y.shape, dtype=D)
    _, slope = torch.func.jvp(final(method), (Y,), (along,))
    torch.testing.assert_close(slope, (by_autograd(method) * along).sum(), rtol=1e-9, atol=1e-12)


@METHODS
def test_forward_mode_autograd_is_the_gradient_along_a_direction(method: str) -> None:
    along = torch.randn(Y.shape, dtype=D)
    with torch.autograd.forward_ad.dual_level():
        value = final(method)(torch.autograd.forward_ad.make_dual(Y, along))
        slope = torch.autograd.forward_ad.unpack_dual(value).tangent
    assert slope is not None
    torch.testing.assert_close(slope, (by_autograd(method) * along).sum(), rtol=1e-9, atol=1e-12)


def test_vmap_over_what_the_field_closes_over_works_on_a_grid() -> None:
    rates = torch.tensor([0.5, 1.0, 2.0], dtype=D)

    def solution(w: Tensor) -> Tensor:
        return fastode.odeint(lambda t, y: -w * y, Y, T, method="rk4")

    expected = torch.stack([solution(w) for w in rates])
    torch.testing.assert_close(torch.func.vmap(solution)(rates), expected, rtol=1e-13, atol=1e-13)


@METHODS
def test_forward_mode_through_a_parameter_of_the_field(method: str) -> None:
    w = torch.tensor(0.7, dtype=D)

    def last(w: Tensor) -> Tensor:
        return fastode.odeint(lambda t, y: w * torch.sin(y), Y, T, method=method)[-1].sum()

    _, slope = torch.func.jvp(last, (w,), (torch.ones((), dtype=D),))
    torch.testing.assert_close(slope, torch.func.grad(last)(w), rtol=1e-9, atol=1e-12)


def test_a_fake_state_on_a_grid_gives_a_fake_solution_of_the_right_shape_or_says_why_not() -> None:
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(Y)
    y = fastode.odeint(lambda t, y: torch.sin(y), fake, T, method="rk4")
    assert isinstance(y, FakeTensor)
    assert y.shape == (3, 2, 3) and y.dtype == D


@EVERY
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@METHODS
def test_without_gradients_the_values_are_the_same(solver: Any, mode: Any, method: str) -> None:
    net = Net()
    expected = solver(net, Y, T, method=method)
    with mode():
        y = solver(net, Y.clone(), T, method=method)
    assert not y.requires_grad
    torch.testing.assert_close(y, expected.detach(), rtol=1e-12, atol=1e-12)


@EVERY
def test_a_state_made_in_inference_mode_can_be_solved_outside_it(solver: Any) -> None:
    with torch.inference_mode():
        y0 = Y.clone()
    with torch.no_grad():
        assert torch.equal(solver(Net(), y0, T), solver(Net(), Y, T))


class Half(nn.Module):
    """A field of float32 weights, which autocast evaluates in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y))


@EVERY
def test_autocast_changes_the_field_and_not_the_state(solver: Any) -> None:
    field = Half()
    y0, t = Y.float(), T.float()
    exact = fastode.odeint(field, y0, t).detach()
    with torch.autocast("cpu", torch.bfloat16):
        y = solver(field, y0, t, rtol=1e-2, atol=1e-2)
        y[-1].square().sum().backward()
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, exact, rtol=0, atol=0.05)  # the field has 8 bits: 2^-8 over a span of 1, times 10
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in field.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@METHODS
def test_a_state_of_sixteen_bits_is_integrated_in_them(dtype: torch.dtype, method: str) -> None:
    options = {"step_size": 0.25} if method == "rk4" else None
    call = {"y0": Y.to(dtype), "t": T, "method": method, "rtol": 0.05, "atol": 0.05, "options": options}
    one, two = Recorder(lambda t, y: -y), Recorder(lambda t, y: -y)
    ours, theirs = fastode.odeint(one, **call), torchdiffeq.odeint(two, **call)
    assert ours.dtype == dtype
    assert len(one.times) == len(two.times)
    # some ten roundings of numbers up to 2, in another order
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@EVERY
def test_a_parameter_as_initial_state_gets_its_gradient(solver: Any) -> None:
    y0 = nn.Parameter(Y.clone())
    y = solver(Net(), y0, T)
    assert type(y) is Tensor
    y[-1].sum().backward()
    assert y0.grad is not None
    torch.testing.assert_close(y0.grad, by_autograd("dopri5"), rtol=1e-5, atol=1e-7)  # backsolve: to rtol 1e-7


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_field_that_was_used_can_be_copied_and_gives_the_same(copied: Any) -> None:
    net = Net()
    fastode.odeint_adjoint(net, Y, T)[-1].sum().backward()
    with torch.no_grad():
        assert torch.equal(fastode.odeint(copied(net), Y, T), fastode.odeint(net, Y, T))


def test_a_callable_that_is_no_module_can_be_pickled_with_what_it_solved() -> None:
    solution = fastode.odeint(Net(), Y, T).detach()
    assert torch.equal(pickle.loads(pickle.dumps(solution)), solution)


def test_a_compiled_model_may_hold_a_solve() -> None:
    # in a process of its own: importing the compiler slows every later test down
    program = """
        import torch, warnings, fastode
        warnings.simplefilter("ignore")

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.layer = torch.nn.Linear(3, 3)

            def forward(self, y0):
                y = 2 * y0
                y = fastode.odeint_adjoint(SOLVED[0], y, torch.tensor([0.0, 1.0]), **SOLVED[1])
                return y[-1].square().sum()

        class Field(torch.nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(1)
                self.layer = torch.nn.Linear(3, 3)

            def forward(self, t, y):
                return torch.tanh(self.layer(y))

        for options in ({}, {"gradient": "discrete"}, {"method": "rk4"}):
            SOLVED = (Field(), options)
            model, y0 = Model(), torch.ones(4, 3)
            compiled = torch.compile(model, backend="eager")
            a = model(y0)
            g = torch.autograd.grad(a, list(SOLVED[0].parameters()))
            b = compiled(y0)
            h = torch.autograd.grad(b, list(SOLVED[0].parameters()))
            torch.testing.assert_close(b, a)
            for x, y in zip(g, h, strict=True):
                torch.testing.assert_close(x, y)
            field = torch.compile(SOLVED[0], backend="eager")
            torch.testing.assert_close(fastode.odeint(field, y0, torch.tensor([0.0, 1.0])),
                                       fastode.odeint(SOLVED[0], y0, torch.tensor([0.0, 1.0])))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
