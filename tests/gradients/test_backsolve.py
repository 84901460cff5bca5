"""The continuous adjoint: gradients within the tolerance, norms, methods, callbacks, dtypes, and its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import ADAPTIVE_ALL, Linear, Net, NetOfPair, Recorder
from torch import Tensor, nn

import fastode
from fastode.errors import InvalidArgument

from .comparing import Mixing, Turning, assert_same, backsolve, gradients, mixing, weighted

Y0 = torch.tensor([[0.2, -0.4, 1.1], [0.5, 0.0, -0.7]], dtype=torch.float64)
MANY = torch.tensor([0.0, 0.3, 0.35, 1.2, 2.0], dtype=torch.float64)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
#: global errors of two solves at TIGHT: the tolerance bounds those of single steps, of which there are about a hundred
WITHIN = 1e-6


def both(func: Any, y0: Any, t: Tensor, args: Any = (), **kwargs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the adjoint, and of autograd at tight tolerances with dopri5."""
    _, ours = gradients(backsolve, func, y0, t, args, **kwargs)
    _, exact = gradients(fastode.odeint, func, y0, t, args, **TIGHT)
    return ours, exact


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("method", [m for m in ADAPTIVE_ALL if m not in ("adaptive_heun", "fehlberg2")])
def test_gradients_to_everything_agree_with_autograd_within_the_tolerance(method: str, direction: str) -> None:
    t = MANY if direction == "forward" else MANY.flip(0)
    # every step ends on a time asked for: dopri8 interpolates with a quartic
    ours, exact = both(Net(), Y0, t, method=method, options={"step_t": t}, **TIGHT)
    assert_same(ours, exact, WITHIN)


@pytest.mark.parametrize("method", ["rk4", "gl4"])
def test_a_fixed_grid_solves_the_adjoint_with_its_own_order(method: str) -> None:
    t = torch.tensor([0.0, 2.0], dtype=torch.float64)

    def error(step: float) -> float:
        _, ours = gradients(backsolve, Mixing(), Y0, t, method=method, options={"step_size": step})
        _, exact = gradients(fastode.odeint, Mixing(), Y0, t, **{**TIGHT, "rtol": 1e-13, "atol": 1e-13})
        return max(float((a - b).abs().max()) for a, b in zip(ours, exact, strict=True))

    # halving the step of a fourth-order method divides the error by 16, or nearly
    assert 12 < error(0.125) / error(0.0625) < 20


def test_a_tuple_state_and_extra_arguments_get_their_gradients() -> None:
    y0 = (Y0, torch.tensor([0.3, -0.2], dtype=torch.float64))
    ours, exact = both(NetOfPair(), y0, MANY, **TIGHT)
    assert_same(ours, exact, WITHIN)
    ours, exact = both(mixing, Y0, MANY, [torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64)], **TIGHT)
    assert_same(ours, exact, WITHIN)


@pytest.mark.parametrize("t_grad", [False, True], ids=["no gradient of t", "gradient of t"])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_complex_state_with_a_real_parameter_gets_gradients_of_their_own_dtypes(method: str, t_grad: bool) -> None:
    y0 = torch.tensor([0.4 + 0.3j, -0.2j], dtype=torch.complex128)
    options = {} if method == "dopri5" else {"step_size": 0.005}
    _, ours = gradients(backsolve, Turning(), y0, MANY, t_grad=t_grad, method=method, options=options, **TIGHT)
    _, exact = gradients(fastode.odeint, Turning(), y0, MANY, t_grad=t_grad, **TIGHT)
    assert_same(ours, exact, WITHIN)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_parameters_wider_than_the_state_are_integrated_in_their_own_precision(method: str) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5, -0.8], dtype=torch.float64))
            self.seen: set[torch.dtype] = set()

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.seen |= {t.dtype, y.dtype}
            return torch.sin(self.w * y) + t

    func, y0 = Wide(), torch.tensor([0.3, 1.0])
    t = torch.tensor([0.0, 0.4, 1.0])
    options = {} if method == "dopri5" else {"step_size": 0.05}
    arguments = {"method": method, "options": options, "rtol": 1e-5, "atol": 1e-5}
    _, ours = gradients(backsolve, func, y0, t, **arguments)
    assert func.seen == {torch.float32}
    assert [g.dtype for g in ours] == [torch.float32, torch.float64, torch.float32]
    _, exact = gradients(fastode.odeint, func, y0, t, rtol=1e-5, atol=1e-5)
    assert_same(ours, exact, 1e-3)


def test_without_a_gradient_of_time_it_is_not_integrated() -> None:
    """The field is asked to differentiate with respect to ``t`` only where that is wanted."""
    asked: list[bool] = []

    class Asking(Mixing):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            asked.append(t.requires_grad)
            return super().forward(t, y)

    gradients(backsolve, Asking(), Y0, MANY, t_grad=False)
    assert not any(asked)
    gradients(backsolve, Asking(), Y0, MANY)
    assert any(asked)


def test_times_without_a_cotangent_cost_nothing() -> None:
    """A loss on the last of many outputs solves backwards as over two times."""

    def cost(t: Tensor) -> list[float]:
        func = Recorder(Net())
        gradients(backsolve, func, Y0, t, t_grad=False, loss=lambda y: y[-1].square().sum())
        return func.times

    assert len(cost(torch.linspace(0, 2, 40, dtype=torch.float64))) == len(cost(MANY[[0, -1]]))


@pytest.mark.parametrize("loss", [lambda y: y.square().sum(), lambda y: y[-1].square().sum()], ids=["all", "last"])
def test_the_limit_on_steps_counts_between_two_times(loss: Callable[[Tensor], Tensor]) -> None:
    """As in torchdiffeq, which solves back from each requested time to the one before."""
    t = torch.linspace(0, 4, 9, dtype=torch.float64)
    settings: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-7, "loss": loss}
    with fastode.stats() as log:
        _, free = gradients(backsolve, Net(), Y0, t, **settings)
    limit = max(log[1].n_steps // 4, 1)
    _, bounded = gradients(backsolve, Net(), Y0, t, options={"max_num_steps": limit}, **settings)
    assert all(torch.equal(a, b) for a, b in zip(free, bounded, strict=True))
    with pytest.raises(fastode.TooManySteps, match="max_num_steps"):
        gradients(backsolve, Net(), Y0, t, adjoint_options={"max_num_steps": 1}, **settings)


def test_one_time_is_the_identity() -> None:
    func = Net()
    _, (y0, *params, t) = gradients(backsolve, func, Y0, MANY[:1], loss=lambda y: (2 * y).sum())
    assert torch.equal(y0, torch.full_like(Y0, 2.0))
    assert torch.equal(t, torch.zeros_like(t)) and not any(bool(p.any()) for p in params)


ADJOINT_SETTINGS: dict[str, dict[str, Any]] = {
    "seminorm": {"adjoint_options": {"norm": "seminorm"}},
    "callable norm": {"adjoint_options": {"norm": lambda s: torch.stack([p.abs().max() for p in s]).max()}},
    "forward norm by name": {"options": {"norm": "max"}},
    "forward norm as a callable": {"options": {"norm": lambda y: y.abs().max()}},
    "own tolerances": {"adjoint_rtol": 1e-11, "adjoint_atol": 1e-11},
    "tolerances as tensors": {"rtol": torch.tensor(1e-10), "atol": torch.full((3,), 1e-10)},
    "another method": {"adjoint_method": "tsit5"},
    "fixed grid backwards": {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.005}},
    "adaptive after a fixed grid": {"method": "rk4", "options": {"step_size": 0.005}, "adjoint_method": "dopri5",
                                    "adjoint_options": {}},
    "first step": {"adjoint_options": {"first_step": 0.01}},
    "jump": {"options": {"jump_t": torch.tensor([0.5, 1.0])}},
    "reference engine": {"options": {"engine": "reference"}},
    "scipy forwards": {"method": "scipy_solver", "adjoint_method": "dopri5"},
}  # fmt: skip


@pytest.mark.parametrize("setting", ADJOINT_SETTINGS)
@pytest.mark.parametrize("t_grad", [False, True], ids=["no gradient of t", "gradient of t"])
def test_settings_of_the_backward_solve_change_the_steps_and_not_the_gradient(setting: str, t_grad: bool) -> None:
    _, ours = gradients(backsolve, Net(), Y0, MANY, t_grad=t_grad, **{**TIGHT, **ADJOINT_SETTINGS[setting]})
    _, exact = gradients(fastode.odeint, Net(), Y0, MANY, t_grad=t_grad, **TIGHT)
    assert_same(ours, exact, WITHIN)


def test_tolerances_of_each_part_hold_for_its_adjoint_too() -> None:
    y0 = (Y0, torch.tensor([0.3, -0.2], dtype=torch.float64))
    ours, exact = both(NetOfPair(), y0, MANY, rtol=(1e-10, 1e-9), atol=(1e-9, 1e-10))
    assert_same(ours, exact, 1e-6)


def test_looser_adjoint_tolerances_make_the_backward_solve_cheaper_and_leave_the_forward_one() -> None:
    counts = []
    for tolerance in (None, 1e-3):
        with fastode.stats() as log:
            gradients(backsolve, Net(), Y0, MANY, adjoint_rtol=tolerance, adjoint_atol=tolerance)
        counts.append([s.n_func for s in log])
    assert counts[0][0] == counts[1][0]
    assert counts[0][1] > 2 * counts[1][1]


def test_the_seminorm_does_not_look_at_parameters() -> None:
    """A parameter whose gradient is badly scaled decides the steps of the full norm only."""

    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.cos(y) + 1e6 * torch.sin(20 * t) * self.w

    def steps(norm: dict[str, Any]) -> int:
        with fastode.stats() as log:
            gradients(backsolve, Loud(), Y0, MANY, t_grad=False, rtol=1e-6, atol=1e-6, adjoint_options=norm)
        return log[1].n_accepted

    assert 3 * steps({"norm": "seminorm"}) < steps({})


def test_an_unknown_norm_is_named() -> None:
    with pytest.raises(InvalidArgument, match="adjoint_options\\['norm'\\]='l2' is not known"):
        backsolve(Net(), Y0, MANY, adjoint_options={"norm": "l2"})


def test_another_method_with_options_needs_its_own_options() -> None:
    with pytest.raises(ValueError, match="`adjoint_options` must be passed as well"):
        backsolve(Net(), Y0, MANY, options={"max_step": 0.1}, adjoint_method="rk4")


@pytest.mark.parametrize("gradient", ["backsolve", "discrete"])
def test_a_second_derivative_is_refused_by_name(gradient: str) -> None:
    func = Net()
    y0 = Y0.clone().requires_grad_()
    y = fastode.odeint_adjoint(func, y0, MANY, gradient=gradient)
    # a cotangent that requires grad: what comes back would have to be differentiable in it
    (first,) = torch.autograd.grad((y**2).sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("gradient", ["backsolve", "discrete"])
def test_a_graph_that_is_kept_can_be_walked_twice(gradient: str) -> None:
    func = Linear().double()
    y0 = torch.ones(4, dtype=torch.float64, requires_grad=True)
    y = weighted(fastode.odeint_adjoint(func, y0, MANY, gradient=gradient))
    once = torch.autograd.grad(y, (y0, func.matrix), retain_graph=True)
    again = torch.autograd.grad(y, (y0, func.matrix))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_adjoint_callbacks_see_the_augmented_state_on_the_way_back(method: str) -> None:
    func = Net()
    steps: list[tuple[float, int]] = []
    func.callback_step_adjoint = lambda t, y, dt: steps.append((float(t), len(y)))  # type: ignore[assignment]
    options = {} if method == "dopri5" else {"step_size": 0.25}
    y0 = Y0.clone().requires_grad_()
    with fastode.stats() as log:
        y = fastode.odeint_adjoint(func, y0, MANY[[0, -1]], method=method, options=options, rtol=1e-4, atol=1e-4)
        assert not steps
        y[-1].sum().backward()
    times = [t for t, _ in steps]
    assert times[0] == 2.0 and times == sorted(times, reverse=True)
    assert len(steps) == log[1].n_steps
    # the state, its adjoint and three parameters
    assert {n for _, n in steps} == {5}
