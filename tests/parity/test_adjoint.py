"""The continuous adjoint against torchdiffeq's: evaluations and gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from problems import Net, NetOfPair, Recorder
from torch import Tensor

import fastode

from .both import parts, reference, reference_adjoint

DOUBLE = torch.float64
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "bosh3": {"method": "bosh3", "rtol": 1e-4, "atol": 1e-4},
    "dopri8 loose": {"method": "dopri8", "rtol": 1e-4, "atol": 1e-5},
    "rk4": {"method": "rk4", "options": {"step_size": 0.05}},
    "midpoint": {"method": "midpoint"},
    "implicit_adams": {"method": "implicit_adams", "options": {"step_size": 0.05}},
    "adjoint tolerances": {"adjoint_rtol": 1e-4, "adjoint_atol": 1e-4},
    "another adjoint method": {"adjoint_method": "bosh3", "rtol": 1e-4, "atol": 1e-4},
    "adjoint options": {"adjoint_options": {"max_step": 0.1}},
}


def run(solve: Any, net: Any, y0: Any, t: Tensor, **kwargs: Any) -> tuple[int, int, list[Tensor], list[Tensor]]:
    """Evaluations forward and backward, values, and gradients of state, times (if asked for) and parameters."""
    field = Recorder(net)
    leaves = [p.detach().clone().requires_grad_() for p in parts(y0)]
    t = t.clone().requires_grad_(kwargs.pop("t_grad", False))
    net.zero_grad()
    y = solve(field, tuple(leaves) if isinstance(y0, tuple) else leaves[0], t, **kwargs)
    forward = len(field.times)
    values = list(parts(y))
    sum(v.square().sum() for v in values).backward()
    gradients = [*[p.grad for p in leaves], *([t.grad] if t.requires_grad else []), *[p.grad for p in net.parameters()]]
    return forward, len(field.times) - forward, [v.detach() for v in values], gradients


def assert_alike(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("state", ["tensor", "tuple"])
@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.0]], ids=["forward", "backward"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_between_two_times_everything_is_the_same_with_a_gradient_of_time(
    setting: str, times: list[float], state: str
) -> None:
    """With ``adj_t`` in both libraries' states, steps are equal too."""
    y0: Any = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(2, 3)
    net = Net() if state == "tensor" else NetOfPair()
    if state == "tuple":
        y0 = (y0, torch.tensor([0.3, -0.2], dtype=DOUBLE))
    t = torch.tensor(times, dtype=DOUBLE)
    kwargs = {**SETTINGS[setting], "t_grad": True}
    ours, theirs = (run(s, net, y0, t, **dict(kwargs)) for s in (fastode.odeint_adjoint, reference_adjoint))
    assert ours[:2] == theirs[:2]
    assert_alike(ours[2], theirs[2], 1e-12)
    assert_alike(ours[3], theirs[3], 1e-6)  # last digits of an error estimate may move a step by as much


@pytest.mark.parametrize("t_grad", [False, True], ids=["no gradient of t", "gradient of t"])
def test_many_times_need_fewer_evaluations_and_give_gradients_within_the_tolerance(t_grad: bool) -> None:
    net, y0 = Net(), torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(2, 3)
    t = torch.linspace(0, 1, 11, dtype=DOUBLE)
    ours, theirs = (run(s, net, y0, t, t_grad=t_grad) for s in (fastode.odeint_adjoint, reference_adjoint))
    exact = run(reference, net, y0, t, t_grad=t_grad, rtol=1e-11, atol=1e-12)
    assert ours[0] == theirs[0]
    assert ours[1] < 0.8 * theirs[1]
    assert_alike(ours[3], exact[3], 1e-6)


def test_a_gradient_of_time_is_integrated_only_when_it_is_wanted() -> None:
    widths: list[int] = []

    def norm(state: tuple[Tensor, ...]) -> Tensor:
        widths.append(len(state))
        assert not state[0].any()  # the place of adj_t
        return torch.stack([p.abs().max() for p in state]).max()

    net, t = Net(), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    y = fastode.odeint_adjoint(net, torch.ones(3, dtype=DOUBLE), t, adjoint_options={"norm": norm})
    y.sum().backward()
    assert set(widths) == {3 + len(list(net.parameters()))}


def test_the_seminorm_needs_no_more_evaluations() -> None:
    net, y0, t = Net(), torch.ones(4, 3, dtype=DOUBLE), torch.tensor([0.0, 2.0], dtype=DOUBLE)
    full = run(fastode.odeint_adjoint, net, y0, t)
    semi = run(fastode.odeint_adjoint, net, y0, t, adjoint_options={"norm": "seminorm"})
    assert semi[1] <= full[1]
    assert_alike(semi[3], full[3], 1e-5)


def test_a_norm_of_the_users_sees_what_torchdiffeq_shows_it() -> None:
    shapes: dict[str, set[Any]] = {"ours": set(), "theirs": set()}
    y0 = (torch.ones(2, 3, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE))
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    counts = []
    for name, solve in (("ours", fastode.odeint_adjoint), ("theirs", reference_adjoint)):

        def norm(state: tuple[Tensor, ...], name: str = name) -> Tensor:
            shapes[name].add(tuple(tuple(p.shape) for p in state))
            return torch.stack([p.abs().max() for p in state[1:]]).max()

        counts.append(run(solve, NetOfPair(), y0, t, adjoint_options={"norm": norm})[:2])
    assert shapes["ours"] == shapes["theirs"]
    assert counts[0] == counts[1]


def test_callbacks_of_the_backward_solve_are_called_alike() -> None:
    calls: dict[str, list[Any]] = {"ours": [], "theirs": []}
    for name, solve in (("ours", fastode.odeint_adjoint), ("theirs", reference_adjoint)):
        net = Net()
        for kind in ("callback_step_adjoint", "callback_accept_step_adjoint", "callback_reject_step_adjoint"):

            def callback(t0: Tensor, y0: Any, dt: Tensor, kind: str = kind, name: str = name) -> None:
                calls[name].append((kind, round(float(t0), 9), round(float(dt), 9)))

            setattr(net, kind, callback)
        t = torch.tensor([0.0, 1.0], dtype=DOUBLE, requires_grad=True)
        solve(net, torch.ones(2, 3, dtype=DOUBLE), t, rtol=1e-5, atol=1e-5).sum().backward()
    assert calls["ours"] == calls["theirs"]
    assert len(calls["ours"]) > 4


def test_a_parameter_that_needs_no_gradient_is_left_out() -> None:
    net, t = Net(), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    net.b1.requires_grad_(False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"norm": lambda state: torch.stack([p.abs().max() for p in state]).max()}
        y = fastode.odeint_adjoint(net, torch.ones(3, dtype=DOUBLE), t, adjoint_options=options)
        y.sum().backward()
    assert any("An adjoint parameter was passed without requiring gradient" in str(w.message) for w in caught)
    assert net.b1.grad is None and net.w1.grad is not None


def test_replicas_of_data_parallel_find_their_parameters() -> None:
    net = Net()
    replica = net._replicate_for_data_parallel()
    replica.__dict__.update({name: p.clone() for name, p in net.named_parameters()})
    replica._former_parameters = dict(net.named_parameters())
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    fastode.odeint_adjoint(replica, torch.ones(2, 3, dtype=DOUBLE), t).sum().backward()
    copied = [p.grad for p in net.parameters()]
    net.zero_grad()
    fastode.odeint_adjoint(net, torch.ones(2, 3, dtype=DOUBLE), t).sum().backward()
    for a, b in zip(copied, (p.grad for p in net.parameters()), strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b)


def test_a_real_gradient_of_a_complex_state_matches_autograd() -> None:
    found = []
    for solve in (fastode.odeint, fastode.odeint_adjoint):
        speed = torch.tensor(0.9, dtype=DOUBLE, requires_grad=True)
        y0 = torch.tensor([1 + 0.2j, -0.4j], dtype=torch.complex128, requires_grad=True)
        kwargs = {} if solve is fastode.odeint else {"adjoint_params": (speed,)}
        t = torch.tensor([0.0, 0.7], dtype=DOUBLE, requires_grad=True)
        y = solve(lambda t, y, speed=speed: 1j * speed * y - t * y, y0, t, **kwargs)  # type: ignore[operator]
        y.abs().sum().backward()
        found.append((y0.grad, t.grad, speed.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
