"""What a solve can be differentiated with respect to in each of the three ways, and fields that use autograd inside."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import Net, NetOfPair
from torch import Tensor, nn

import fastode

from .comparing import Mixing, Turning, assert_same, backsolve, discrete, gradients, mixing, weighted

Solve = Callable[..., Any]
WAYS: dict[str, Solve] = {"autograd": fastode.odeint, "discrete": discrete, "backsolve": backsolve}
NODES = {k: v for k, v in WAYS.items() if k != "autograd"}
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
#: to rounding where steps are replayed; the backward solve adds errors of its own at TIGHT
TOLERANCE = {"autograd": 0.0, "discrete": 1e-12, "backsolve": 1e-6}
Y0 = torch.tensor([[0.2, -0.4, 1.1], [0.5, 0.0, -0.7]], dtype=torch.float64)
T = torch.tensor([0.0, 0.3, 0.35, 1.2], dtype=torch.float64)
W = torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64)

each_way = pytest.mark.parametrize("way", WAYS)
each_node = pytest.mark.parametrize("way", NODES)


@each_way
@pytest.mark.parametrize("t", [T, T.flip(0)], ids=["forward", "reverse"])
def test_extra_arguments_get_the_gradient_they_would_get_as_parameters(way: str, t: Tensor) -> None:
    func = Mixing()
    with torch.no_grad():
        func.w.copy_(W)
    _, expected = gradients(WAYS[way], func, Y0, t, **TIGHT)
    _, found = gradients(WAYS[way], mixing, Y0, t, [W], **TIGHT)
    assert_same(found, expected, 1e-14)


@each_way
def test_arguments_that_are_no_tensors_or_need_no_gradient_are_passed_on(way: str) -> None:
    seen: list[tuple[Any, ...]] = []

    def field(t: Tensor, y: Tensor, *args: Any) -> Tensor:
        seen.append(args)
        return -args[0] * y

    y0 = Y0.clone().requires_grad_()
    frozen = torch.tensor(2.0, dtype=torch.float64)
    weighted(WAYS[way](field, y0, T, 0.5, "name", frozen, None)).backward()
    assert all(a[0] == 0.5 and a[1] == "name" and a[2] is frozen and a[3] is None for a in seen)
    assert frozen.grad is None


@each_node
def test_a_closed_over_tensor_gets_its_gradient_once_it_is_named(way: str) -> None:
    w = W.clone().requires_grad_()

    def field(t: Tensor, y: Tensor) -> Tensor:
        return mixing(t, y, w)

    (expected,) = torch.autograd.grad(weighted(fastode.odeint(field, Y0, T, **TIGHT)), w)
    (found,) = torch.autograd.grad(weighted(NODES[way](field, Y0, T, adjoint_params=(w,), **TIGHT)), w)
    assert_same([found], [expected], TOLERANCE[way])


@each_node
def test_a_function_that_is_no_module_must_name_its_parameters(way: str) -> None:
    with pytest.raises(ValueError, match=r"func must be an instance of nn\.Module"):
        fastode.odeint_adjoint(lambda t, y: -y, Y0, T, gradient=way)


@each_node
def test_a_parameter_without_influence_gets_zeros_and_not_none(way: str) -> None:
    func = Mixing()
    func.unused = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    weighted(NODES[way](func, Y0, T)).backward()
    assert func.unused.grad is not None and torch.equal(func.unused.grad, torch.zeros_like(func.unused))


@each_node
def test_a_frozen_parameter_gets_none(way: str) -> None:
    func = Net()
    func.b1.requires_grad_(False)
    weighted(NODES[way](func, Y0, T)).backward()
    assert func.b1.grad is None and func.w1.grad is not None


@each_node
def test_a_field_without_parameters_still_has_a_gradient_to_its_state(way: str) -> None:
    y0 = Y0.clone().requires_grad_()
    y = NODES[way](lambda t, y: -y, y0, T, **TIGHT)
    (found,) = torch.autograd.grad(y[-1].sum(), y0)
    torch.testing.assert_close(found, torch.full_like(Y0, -T[-1]).exp(), rtol=1e-8, atol=1e-8)


@each_node
def test_only_parameters_may_require_grad(way: str) -> None:
    func = Mixing()
    (expected,) = torch.autograd.grad(weighted(fastode.odeint(func, Y0, T, **TIGHT)), func.w)
    (found,) = torch.autograd.grad(weighted(NODES[way](func, Y0, T, **TIGHT)), func.w)
    assert_same([found], [expected], TOLERANCE[way])


@each_node
def test_nothing_that_requires_grad_makes_no_node(way: str) -> None:
    func = Mixing().requires_grad_(False)
    assert not NODES[way](func, Y0, T).requires_grad
    with torch.no_grad():
        assert not NODES[way](Mixing(), Y0, T).requires_grad


@each_node
def test_a_parameter_named_twice_counts_once(way: str) -> None:
    func = Mixing()
    (expected,) = torch.autograd.grad(weighted(fastode.odeint(func, Y0, T, **TIGHT)), func.w)
    y = NODES[way](func, Y0, T, adjoint_params=(func.w, func.w), **TIGHT)
    (found,) = torch.autograd.grad(weighted(y), func.w)
    assert_same([found], [expected], TOLERANCE[way])


@each_node
def test_a_tensor_that_is_parameter_and_argument_counts_once(way: str) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(W.clone())

        def forward(self, t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
            return mixing(t, y, self.w) * scale.mean()

    func = Both()
    (expected,) = torch.autograd.grad(weighted(fastode.odeint(func, Y0, T, func.w, **TIGHT)), func.w)
    (found,) = torch.autograd.grad(weighted(NODES[way](func, Y0, T, func.w, **TIGHT)), func.w)
    assert_same([found], [expected], TOLERANCE[way])


@each_node
def test_adjoint_params_may_be_a_generator(way: str) -> None:
    func = Net()
    _, expected = gradients(NODES[way], func, Y0, T)
    _, found = gradients(NODES[way], func, Y0, T, adjoint_params=(p for p in func.parameters()))
    assert_same(found, expected, 0.0)


def replica_of(module: nn.Module, copies: dict[str, Tensor], prefix: str = "") -> nn.Module:
    """``module`` as ``torch.nn.parallel.replicate`` leaves it: its parameters plain attributes that have a history."""
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = OrderedDict()
    for name in module._parameters:
        copies[prefix + name] = module._parameters[name] * 1  # stands for the broadcast to another device
        setattr(replica, name, copies[prefix + name])
        replica._former_parameters[name] = copies[prefix + name]
    for name, child in module._modules.items():
        replica._modules[name] = replica_of(child, copies, f"{prefix}{name}.")
    return replica


@each_node
@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_gradients_pass_through_the_replica_of_a_data_parallel_module_to_the_original(way: str, kind: str) -> None:
    func = Net() if kind == "flat" else NetOfPair()
    y0: Any = Y0 if kind == "flat" else (Y0, Y0[:, 0])
    replica = replica_of(func, {})
    assert not list(replica.parameters())
    weighted(NODES[way](replica, y0, T)).backward()
    found = [p.grad for p in func.parameters()]
    expected = torch.autograd.grad(weighted(NODES[way](func, y0, T)), list(func.parameters()))
    assert_same(found, list(expected), 0.0)  # type: ignore[arg-type]


class Divergence(nn.Module):
    """A state and the integral of the trace of its field's Jacobian, as in continuous normalizing flows."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.net = Net()
        self.in_place = in_place

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y = state[0]
        with torch.enable_grad():
            if self.in_place:
                y.requires_grad_()
            elif not y.requires_grad:
                y = y.detach().requires_grad_()
            f = self.net(t, y)
            columns = (torch.autograd.grad(f[:, i].sum(), y, create_graph=True)[0][:, i] for i in range(3))
            return f, -sum(columns)  # type: ignore[operator]


@each_node
@pytest.mark.parametrize("in_place", [True, False], ids=["requires_grad_ in place", "on a copy"])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_field_may_use_autograd_inside(way: str, in_place: bool, method: str) -> None:
    func, y0 = Divergence(in_place), (Y0, torch.zeros(2, dtype=torch.float64))
    arguments: dict[str, Any] = {"method": method, **TIGHT}
    if method == "rk4":
        # times on the grid, where the linear interpolation between its points has no say
        arguments["options"] = {"step_size": 0.025}
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    expected_y, expected = gradients(fastode.odeint, func, y0, t, t_grad=False, **arguments)
    found_y, found = gradients(NODES[way], func, y0, t, t_grad=False, **arguments)
    assert_same(found_y, expected_y)
    assert_same(found, expected, TOLERANCE[way])


@each_way
def test_a_field_that_keeps_its_states_spoils_no_gradient(way: str) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    class Keeping(Mixing):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            kept.append((y, y.detach().clone()))
            return super().forward(t, y)

    _, found = gradients(WAYS[way], Keeping(), Y0, T, **TIGHT)
    _, expected = gradients(WAYS[way], Mixing(), Y0, T, **TIGHT)
    assert_same(found, expected, 0.0)
    assert all(torch.equal(y.detach(), values) for y, values in kept)


@each_node
def test_a_weight_that_was_computed_once_outside_is_shared_by_all_evaluations(way: str) -> None:
    """Its graph is walked by every evaluation's backward pass and must survive each."""
    raw = W.clone().requires_grad_()
    func = Mixing()
    del func.w
    func.w = torch.exp(raw)  # type: ignore[assignment]
    y = NODES[way](func, Y0, T, adjoint_params=(func.w,), **TIGHT)
    (found,) = torch.autograd.grad(weighted(y), raw)
    w = torch.exp(raw)
    (expected,) = torch.autograd.grad(weighted(fastode.odeint(lambda t, y: mixing(t, y, w), Y0, T, **TIGHT)), raw)
    assert_same([found], [expected], TOLERANCE[way])


@each_node
def test_y0_that_depends_on_a_parameter_of_the_field_adds_both_contributions(way: str) -> None:
    def gradient(solve: Solve) -> Tensor:
        func = Mixing()
        y = solve(func, Y0 * func.w, T * func.w.mean(), **TIGHT)
        return torch.autograd.grad(weighted(y), func.w)[0]

    assert_same([gradient(NODES[way])], [gradient(fastode.odeint)], TOLERANCE[way])


@each_node
def test_the_gradient_accumulates_like_any_other(way: str) -> None:
    func = Turning()
    y0 = torch.tensor([0.4 + 0.3j, -0.2j], dtype=torch.complex128)
    for _ in range(2):
        weighted(NODES[way](func, y0, T)).backward()
    alone = copy.deepcopy(func)
    alone.zero_grad()
    weighted(NODES[way](alone, y0, T)).backward()
    torch.testing.assert_close(func.speed.grad, 2 * alone.speed.grad, rtol=1e-15, atol=0)  # type: ignore[operator]
