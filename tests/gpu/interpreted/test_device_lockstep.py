"""``odeint`` on the device beside the loop of the host: the same steps, evaluations, values and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.device.progress import MOST_ATTEMPTS, attempts_for
from fastode.errors import InvalidArgument
from fastode.methods import lookup, methods
from fastode.tableau import ButcherTableau

ADAPTIVE = [name for name in methods() if isinstance(m := lookup(name), ButcherTableau) and m.adaptive]
ON_DEVICE = {"engine": "triton"}


def spiral(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack(
        [2 * y[:, 1] ** 3 - 0.1 * y[:, 0] ** 3, -2 * y[:, 0] ** 3 - 0.1 * y[:, 1] ** 3 + torch.sin(t)], 1
    )


def both(*args: Any, options: dict[str, Any] | None = None, **settings: Any) -> tuple[Any, Any, Any, Any]:
    """Solutions on the device and by the host's loop, and their accounts."""
    found = fastode.odeint(*args, options={**(options or {}), **ON_DEVICE}, **settings)
    account = fastode.last_stats()
    expected = fastode.odeint(*args, options=options, **settings)
    assert account is not None and account.engine == "triton" and account.reason == ""
    return found, expected, account, fastode.last_stats()


def assert_same_cost(account: Any, expected: Any) -> None:
    for name in ("n_func", "n_accepted", "n_rejected"):
        assert getattr(account, name) == getattr(expected, name), name
    assert account.t == pytest.approx(expected.t, rel=1e-9)


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_steps_are_those_of_the_host(method: str, direction: float, dtype: torch.dtype) -> None:
    y0 = torch.tensor([[1.0, 0.0], [1.0, 0.5], [0.3, 0.2]], dtype=dtype)
    t = direction * torch.linspace(0, 1, 6, dtype=torch.float64)
    tol = 1e-3 if method in ("adaptive_heun", "fehlberg2") else 1e-4
    found, expected, account, host = both(spiral, y0, t, rtol=tol, atol=tol, method=method)
    assert found.dtype == dtype and torch.equal(found[0], y0)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if dtype == torch.float64:
        assert_same_cost(account, host)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 2, 5), (1030,), (0,), (2, 0)], ids=str)
def test_states_of_any_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    y0 = torch.randn(shape, dtype=dtype)
    found, expected, account, host = both(lambda t, y: -y * t, y0, torch.tensor([0.0, 0.5, 1.0]), rtol=1e-4, atol=1e-4)
    assert found.shape == (3, *shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if dtype == torch.float64:
        assert_same_cost(account, host)


def test_states_of_several_parts_and_tolerances_of_each() -> None:
    state = {"x": torch.randn(3, 2).double(), "v": (torch.randn(4).double(),)}

    def field(t: Tensor, s: Any) -> Any:
        return {"x": -s["x"] * s["v"][0][:2], "v": (torch.cos(t * s["v"][0]),)}

    found, expected, account, host = both(field, state, torch.linspace(0, 1, 4), rtol=(1e-4, 1e-6), atol=(1e-5, 1e-7))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert_same_cost(account, host)


def test_tolerances_of_every_element() -> None:
    y0 = torch.randn(3, 2).double()
    atol = torch.tensor([1e-3, 1e-6]).double()
    found, expected, account, host = both(spiral, y0, torch.tensor([0.0, 1.0]), rtol=1e-5, atol=atol)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert_same_cost(account, host)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_16_bits(dtype: torch.dtype) -> None:
    y0 = torch.linspace(0.5, 2, 12).to(dtype)
    found, _, _, _ = both(lambda t, y: -y, y0, torch.tensor([0.0, 1.0]), rtol=1e-2, atol=1e-2)
    assert found.dtype == dtype
    torch.testing.assert_close(found[1].float(), y0.float() * math.exp(-1), rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    "options",
    [{"first_step": 0.05}, {"max_step": 0.1}, {"safety": 0.7, "ifactor": 3.0, "dfactor": 0.5},
     {"step_t": torch.tensor([0.0, 0.3, 0.31, 0.9, 2.0])}, {"jump_t": torch.tensor([0.25, 0.6])},
     {"step_t": torch.tensor([0.1, 0.5]), "jump_t": torch.tensor([0.3])}],
    ids=["first_step", "max_step", "factors", "step_t", "jump_t", "both"],
)  # fmt: skip
def test_options_are_obeyed(options: dict[str, Any]) -> None:
    y0 = torch.randn(5, 2).double()
    found, expected, account, host = both(spiral, y0, torch.linspace(0, 1, 5), rtol=1e-5, atol=1e-5, options=options)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert_same_cost(account, host)


def test_many_outputs_in_a_step_and_many_steps_between_outputs() -> None:
    y0 = torch.randn(4, 2).double()
    for t in (torch.linspace(0, 0.2, 300).double(), torch.tensor([0.0, 3.0]).double()):
        found, expected, account, host = both(spiral, y0, t, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert_same_cost(account, host)


def test_one_time_is_the_initial_state() -> None:
    y0 = torch.randn(4, 2)
    found, _, account, _ = both(spiral, y0, torch.tensor([1.0]))
    assert torch.equal(found, y0[None]) and account.n_steps == 0


def test_attempts_beyond_the_end_are_told_and_not_counted() -> None:
    """Steps that grow less than twofold are foreseen; what is queued in vain changes nothing."""
    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -y

    y0 = torch.ones(3).double()
    t, options = torch.tensor([0.0, 1.0]), {"first_step": 1e-5}
    found, expected, account, host = both(field, y0, t, options=options, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_same_cost(account, host)
    assert calls == 2 * host.n_func + account.n_idle * 6


@pytest.mark.parametrize(
    ("steps", "attempts"),
    [(0.5, 1), (1.0, 1), (2.9, 1), (3.0, 2), (7.5, 3), (200.0, 7), (1e9, 8), (math.inf, 8), (math.nan, 8)],
)  # fmt: skip
def test_how_far_the_host_runs_ahead(steps: float, attempts: int) -> None:
    assert attempts_for(steps) == attempts <= MOST_ATTEMPTS


def test_steps_of_the_least_size_are_accepted_whatever_their_error() -> None:
    options = {"first_step": 0.25, "min_step": 0.25}
    y0, t = torch.rand(3, 2).double(), torch.linspace(0, 1, 3).double()
    found, expected, account, host = both(spiral, y0, t, rtol=1e-9, atol=1e-9, options=options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_same_cost(account, host)
    assert account.n_accepted == 4


def failing(field: Callable[..., Tensor], **options: Any) -> tuple[str, str]:
    """What the device and the host say of a solve that fails."""
    said = []
    for extra in (ON_DEVICE, {}):
        with pytest.raises(fastode.SolverError) as caught:
            fastode.odeint(field, torch.ones(3).double(), torch.tensor([0.0, 2.0]), options={**options, **extra})
        said.append(f"{type(caught.value).__name__}: {caught.value}")
    return said[0], said[1]


def test_failures_are_those_of_the_host() -> None:
    found, expected = failing(lambda t, y: y * torch.nan)
    assert found == expected
    found, expected = failing(lambda t, y: y, max_num_steps=3)
    assert found == expected
    found, expected = failing(lambda t, y: y, max_total_steps=4)
    assert found == expected
    found, expected = failing(lambda t, y: torch.where(t > 0.25, torch.nan, y))
    assert found == expected and "underflow" in found
    least = {"first_step": 0.1, "min_step": 0.1}
    for field in (lambda t, y: 1e200 * y**3, lambda t, y: torch.where(t > 0.25, torch.nan, y)):
        found, expected = failing(field, **least)
        assert found == expected and "non-finite" in found
    with pytest.raises(fastode.NonFiniteState, match="non-finite values in state `y`: 1 of 3"):
        fastode.odeint(lambda t, y: y, torch.tensor([1.0, torch.nan, 2.0]), torch.tensor([0.0, 1.0]), options=ON_DEVICE)


@pytest.mark.parametrize(
    ("why", "settings"),
    [
        ("norm 'max'", {"options": {"norm": "max"}}),
        ("a norm of the user's", {"options": {"norm": lambda y: y.abs().max()}}),
        ("events", {"event_fn": lambda t, y: y.sum() - 1}),
        ("torch.float32", {"options": {"dtype": torch.float32}}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_stay_on_the_device_is_refused_by_name(why: str, settings: dict[str, Any]) -> None:
    settings = {**settings, "options": {**settings.get("options", {}), **ON_DEVICE}}
    with pytest.raises(fastode.InvalidArgument, match=f"engine='triton' cannot serve this solve: .*{why}"):
        fastode.odeint(spiral, torch.rand(3, 2), torch.tensor([0.0, 1.0]), **settings)


def test_a_tape_is_refused_whenever_it_begins() -> None:
    weight = torch.ones(2, requires_grad=True)
    fields = [lambda t, y: y * weight, lambda t, y: y * weight if t > 0.1 else y]
    for field in fields:
        with pytest.raises(fastode.InvalidArgument, match="a tape is recorded"):
            fastode.odeint(field, torch.rand(3, 2), torch.tensor([0.0, 1.0]), options=ON_DEVICE)
        account = fastode.last_stats()
        assert account is not None and account.cuda_graph == ""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, t.expand(len(y), 1)], 1))


def test_a_seminorm_leaves_the_parts_of_parameters_to_the_stages() -> None:
    """Also of a method whose last stage is not the new state."""
    net, t = Net(), torch.tensor([0.0, 0.5]).double()
    gradients = []
    for options in (ON_DEVICE, {}):
        net.zero_grad()
        y0 = torch.linspace(-1, 1, 10).reshape(5, 2).double()
        out = fastode.odeint_adjoint(
            net, y0, t, rtol=1e-3, atol=1e-3, method="adaptive_heun", options=options,
            adjoint_options={"norm": "seminorm", **options},
        )  # fmt: skip
        out[-1].square().sum().backward()
        account = fastode.last_stats()
        assert account is not None and account.engine == ("triton" if options else "native")
        gradients.append([p.grad.clone() for p in net.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("gradient", ["backsolve", "discrete"])
@pytest.mark.parametrize("times", [2, 4])
def test_gradients_of_solves_on_the_device_are_those_of_the_host(gradient: str, times: int) -> None:
    """With several times the backward solve of ``backsolve`` pauses at each of them."""
    net = Net()
    t = torch.linspace(0, 1, times).double()
    gradients, counts = [], []
    for options in (ON_DEVICE, {}):
        y0 = torch.linspace(-1, 1, 10).reshape(5, 2).double().requires_grad_()
        net.zero_grad()
        with fastode.stats() as log:
            out = fastode.odeint_adjoint(net, y0, t, rtol=1e-5, atol=1e-5, options=options, gradient=gradient)
            out[1:].square().sum().backward()
        gradients.append([y0.grad, *[p.grad for p in net.parameters()]])
        assert log[0].engine == ("triton" if options else "native")
        counts.append([(s.n_func, s.n_accepted) for s in log])
        if gradient == "backsolve":
            assert log[1].engine == log[0].engine
    assert counts[0] == counts[1]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


class _Recording:
    """Stands in for capture and replay where there is no CUDA: the attempt runs again, but Python is not asked."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.replays = refuses, 0

    def captured(self, attempt: Callable[[], None]) -> Callable[[], None]:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

        def replay() -> None:
            self.replays += 1
            attempt()

        return replay


def test_attempts_are_repeated_as_a_graph_when_the_user_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    y0, t = torch.randn(4, 2).double(), torch.tensor([0.0, 2.0]).double()
    recording = _Recording()
    monkeypatch.setattr("fastode.device.graph.captured", recording.captured)
    found, expected, account, host = both(spiral, y0, t, rtol=1e-5, atol=1e-5, options={"cuda_graph": True})
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    # evaluations were seen by Python twice as the stand-in calls it; the account has each once
    assert_same_cost(account, host)
    # every attempt but the first
    assert recording.replays == account.n_steps + account.n_idle - 1
    assert (account.cuda_graph, host.cuda_graph) == ("captured", "")


def test_a_field_that_the_compiler_sees_through_is_captured_without_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y0, t = torch.randn(2, 300).double(), torch.tensor([0.0, 4.0]).double()
    monkeypatch.setattr("fastode.device.graph.captured", (recording := _Recording()).captured)

    def outcome(field: Any, gradient: bool = False, **options: Any) -> str:
        options = {"norm": "rms", **ON_DEVICE, **options}
        recording.replays = 0
        if gradient:
            fastode.odeint_adjoint(
                field, y0, t, rtol=1e-6, atol=1e-6, options=options, gradient="discrete", adjoint_params=()
            )
        else:
            with torch.no_grad():
                fastode.odeint(field, y0, t, rtol=1e-6, atol=1e-6, options=options)
        account = fastode.last_stats()
        assert account is not None and account.engine == "triton"
        assert (recording.replays > 0) == (account.cuda_graph == "captured")
        return account.cuda_graph

    layer = nn.Linear(300, 300).double()

    def net(t: Tensor, y: Tensor) -> Tensor:
        return layer(y).tanh()

    def branching(t: Tensor, y: Tensor) -> Tensor:
        return net(t, y) if y.sum() < 1e9 else y

    assert outcome(fastode.compile(net)) == "captured"
    assert outcome(fastode.compile(net), cuda_graph=False) == "not wanted"
    assert outcome(net, cuda_graph=True) == "captured"
    assert "fastode.compile can see it" in outcome(net)
    assert outcome(fastode.compile(branching)) == "the field is not compiled for this state"
    assert outcome(net, gradient=True, cuda_graph=True) == "the steps are kept for a gradient"
    message = r"'cuda_graph'.*True, False or None.*'yes'"
    with pytest.raises(InvalidArgument, match=message):
        outcome(net, cuda_graph="yes")
    with pytest.raises(InvalidArgument, match=message):
        fastode.odeint(fastode.compile(net), y0, t, options={"cuda_graph": "yes"})


def test_a_solve_of_few_attempts_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastode.device.graph.captured", (recording := _Recording()).captured)
    y0, t = torch.randn(4, 2).double(), torch.tensor([0.0, 1e-6]).double()
    fastode.odeint(spiral, y0, t, rtol=1e-5, atol=1e-5, options={"cuda_graph": True, **ON_DEVICE})
    account = fastode.last_stats()
    assert account is not None and account.cuda_graph == "never 4 attempts to queue at once"
    assert not recording.replays


def test_a_field_that_cannot_be_captured_is_called_and_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    y0, t = torch.randn(4, 2).double(), torch.tensor([0.0, 2.0]).double()
    monkeypatch.setattr("fastode.device.graph.captured", _Recording(refuses=True).captured)
    found = fastode.odeint(spiral, y0, t, rtol=1e-5, atol=1e-5, options={"cuda_graph": True, **ON_DEVICE})
    account = fastode.last_stats()
    assert account is not None
    assert (account.cuda_graph, account.reason) == ("operation not permitted when stream is capturing", "")
    torch.testing.assert_close(found, fastode.odeint(spiral, y0, t, rtol=1e-5, atol=1e-5), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "heun3"])
def test_grids_take_the_kernels_of_stages(method: str, dtype: torch.dtype) -> None:
    y0 = torch.rand(5, 2, dtype=dtype) - 0.5
    t = torch.linspace(0, 1, 5)
    found, expected, account, host = both(spiral, y0, t, method=method, options={"step_size": 0.1})
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert account.n_func == host.n_func


def test_a_loop_on_the_host_takes_the_kernels_of_stages(hosts_loop: Callable[[], None]) -> None:
    problem = {"rtol": 1e-5, "atol": 1e-5, "options": {"norm": "max"}}
    y0, t = torch.randn(5, 2).double(), torch.tensor([0.0, 1.0])
    expected = fastode.odeint(spiral, y0, t, **problem)
    hosts_loop()
    torch.testing.assert_close(fastode.odeint(spiral, y0, t, **problem), expected, rtol=1e-9, atol=1e-9)
    account = fastode.last_stats()
    assert account is not None
    assert (account.engine, account.reason) == ("triton", "not on the device: norm 'max'")


@pytest.mark.parametrize("method", [*ADAPTIVE, "euler", "midpoint", "heun3", "rk4"])
def test_a_tape_records_the_kernels(method: str, hosts_loop: Callable[[], None]) -> None:
    net = Net()
    t = torch.tensor([0.0, 0.45, 1.0]).double()
    options = {"first_step": 0.2} if method in ADAPTIVE else {"step_size": 0.25}
    found = []
    for on_device in (False, True):
        if on_device:
            hosts_loop()
        y0 = torch.linspace(-1, 1, 10).double().reshape(5, 2).requires_grad_()
        extra = torch.linspace(0, 1, 3).double().requires_grad_()

        def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return net(t, y[0]), -y[1] * y[0].mean()

        y, z = fastode.odeint(field, (y0, extra), t, method=method, options=options, rtol=1e-4, atol=1e-4)
        account = fastode.last_stats()
        assert account is not None and account.engine == "autograd"
        inputs = (y0, extra, *net.parameters())
        once = torch.autograd.grad(y.square().sum() + z[-1].sin().sum(), inputs, create_graph=True)
        twice = torch.autograd.grad(sum(g.square().sum() for g in once), inputs)
        found.append((account.n_func, account.n_accepted, y, z, *once, *twice))
    assert found[0][:2] == found[1][:2]
    for a, b in zip(found[0][2:], found[1][2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_a_tape_that_begins_in_mid_step_and_one_of_the_times(hosts_loop: Callable[[], None]) -> None:
    p = torch.tensor(0.7).double().requires_grad_()
    found = []
    for on_device in (False, True):
        if on_device:
            hosts_loop()
        y0, t = torch.ones(3).double(), torch.tensor([0.0, 0.3, 1.0]).double().requires_grad_()

        def late(t: Tensor, y: Tensor) -> Tensor:
            return p * y if t > 0.5 else y.detach() * 0.5

        for settings in ({"method": "rk4"}, {"rtol": 1e-4, "atol": 1e-4}):
            y = fastode.odeint(late, y0, t.detach(), **settings)
            found.append(torch.autograd.grad(y[-1].sum(), p)[0])
            y = fastode.odeint(lambda t, y: p * y.sin() * t, y0, t, **settings)
            found += torch.autograd.grad(y.square().sum(), (p, t))
    half = len(found) // 2
    for a, b in zip(found[:half], found[half:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_inference_mode_and_autocast_stay_on_the_device() -> None:
    linear = nn.Linear(2, 2)
    y0, t = torch.randn(5, 2), torch.tensor([0.0, 1.0])
    expected = fastode.odeint(lambda t, y: linear(y), y0, t, rtol=1e-2, atol=1e-2).detach()
    with torch.inference_mode():
        found = fastode.odeint(lambda t, y: linear(y), y0.clone(), t, rtol=1e-2, atol=1e-2, options=ON_DEVICE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # the field's value is bfloat16; state and arithmetic stay float32
        found = fastode.odeint(lambda t, y: linear(y), y0, t, rtol=1e-2, atol=1e-2, options=ON_DEVICE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
