"""``odeint_adjoint(gradient="discrete")``: autograd's gradient, with one state a step kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from problems import ADAPTIVE_ALL, FIXED, Net, NetOfPair, Recorder
from torch import Tensor, nn

import fastode
from fastode.errors import InvalidArgument

DOUBLE = torch.float64
TIMES = {
    "two": [0.0, 1.0], "many": [0.0, 0.1, 0.15, 0.4, 0.77, 1.0], "backward": [1.0, 0.6, 0.0], "one": [0.3],
}  # fmt: skip


def both(
    field: nn.Module, y0: Any, t: Tensor, extra: tuple[Tensor, ...] = (), **kwargs: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Values and gradients of all inputs, by the discrete adjoint and by autograd."""
    found = []
    for discrete in (True, False):
        leaves = [p.detach().clone().requires_grad_() for p in (y0 if isinstance(y0, tuple) else (y0,))]
        times = t.clone().requires_grad_()
        start = tuple(leaves) if isinstance(y0, tuple) else leaves[0]
        if discrete:
            y = fastode.odeint_adjoint(field, start, times, *extra, gradient="discrete", **kwargs)
        else:
            y = fastode.odeint(field, start, times, *extra, **kwargs)
        values = list(y) if isinstance(y, tuple) else [y]
        # every output has its own weight, so that none can stand for another
        loss = sum((v * torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).view_as(v)).sum() for v in values)
        inputs = [*leaves, times, *field.parameters(), *extra]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        found.append([v.detach() for v in values] + list(gradients))
    return found[0], found[1]


def assert_same(pair: tuple[list[Tensor], list[Tensor]]) -> None:
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("method", [*ADAPTIVE_ALL, *FIXED, "implicit_midpoint", "gl4", "trbdf2"])
def test_gradients_are_those_of_autograd(method: str, times: str) -> None:
    options = {} if method in ADAPTIVE_ALL else {"step_size": 0.3}
    y0 = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(2, 3)
    t = torch.tensor(TIMES[times], dtype=DOUBLE)
    assert_same(both(Net(), y0, t, method=method, rtol=1e-4, atol=1e-4, options=options))


class Concatenating(nn.Module):
    """Its vector-Jacobian product is a slice of a wider tensor, and not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([t.expand(len(y), 1), y], 1))
        return out


class Transposing(nn.Module):
    """Its vector-Jacobian product is a transposed tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.tensor([[0.3, -0.8], [0.6, 0.1]], dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = (self.mix @ y.T.sin().T).cos()
        return out


@pytest.mark.parametrize("field", [Concatenating, Transposing])
@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "fehlberg2", "rk4", "implicit_midpoint"])
def test_cotangents_that_are_views(method: str, field: type[nn.Module]) -> None:
    y0 = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(2, 3)
    t = torch.tensor(TIMES["many"], dtype=DOUBLE)
    assert_same(both(field(), y0, t, method=method, rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "rk4"])
def test_tuple_states(method: str) -> None:
    y0 = (torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(2, 3), torch.tensor([0.3, -0.2], dtype=DOUBLE))
    t = torch.tensor(TIMES["many"], dtype=DOUBLE)
    assert_same(both(NetOfPair(), y0, t, method=method, rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize(
    "options",
    [
        {"step_t": torch.tensor([0.2, 0.5])}, {"jump_t": torch.tensor([0.2, 0.5])}, {"max_step": 0.1}, {"norm": "max"},
        {"first_step": 0.05}, {"engine": "reference"},
    ],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
@pytest.mark.parametrize("method", ["dopri5", "fehlberg2"])
def test_options_of_the_forward_solve_hold_in_the_replay(method: str, options: dict[str, Any]) -> None:
    y0, t = torch.linspace(-1, 1, 3, dtype=DOUBLE)[None], torch.tensor(TIMES["many"], dtype=DOUBLE)
    assert_same(both(Net(), y0, t, method=method, rtol=1e-4, atol=1e-4, options=options))


@pytest.mark.parametrize("perturb", [False, True], ids=["exact", "perturbed"])
@pytest.mark.parametrize("interp", ["linear", "cubic"])
def test_options_of_grids_hold_in_the_replay(interp: str, perturb: bool) -> None:
    y0, t = torch.linspace(-1, 1, 3, dtype=DOUBLE)[None], torch.tensor(TIMES["many"], dtype=DOUBLE)
    options = {"interp": interp, "perturb": perturb, "step_size": 0.3}
    assert_same(both(Net(), y0, t, method="heun3", options=options))


def test_extra_arguments_are_differentiated() -> None:
    class Scaled(nn.Module):
        def forward(self, t: Tensor, y: Tensor, rate: Tensor, shift: Tensor) -> Tensor:
            return torch.sin(rate * y) + shift * t

    extra = tuple(torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.8, -0.3))
    assert_same(both(Scaled(), torch.ones(2, dtype=DOUBLE), torch.tensor(TIMES["many"], dtype=DOUBLE), extra))


def test_a_complex_state_with_real_parameters() -> None:
    class Turn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.speed = nn.Parameter(torch.tensor(0.9, dtype=DOUBLE))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return 1j * self.speed * y - 0.1 * y * y.abs()

    results = []
    for gradient in ("discrete", "autograd"):
        field, y0 = Turn(), torch.tensor([1 + 0.2j, -0.4j], requires_grad=True, dtype=torch.complex128)
        t = torch.tensor([0.0, 0.7], dtype=DOUBLE)
        if gradient == "autograd":
            y = fastode.odeint(field, y0, t)
        else:
            y = fastode.odeint_adjoint(field, y0, t, gradient=gradient)
        y.abs().sum().backward()
        results.append((y0.grad, field.speed.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_parameter_without_influence_gets_zero_and_a_shared_one_its_whole_gradient() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3, dtype=DOUBLE)
            self.again = self.layer
            self.idle = nn.Parameter(torch.ones(4, dtype=DOUBLE))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.again(torch.tanh(self.layer(y)))

    field = Shared()
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    fastode.odeint_adjoint(field, torch.ones(2, 3, dtype=DOUBLE), t, gradient="discrete").sum().backward()
    assert field.idle.grad is not None and not field.idle.grad.any()
    assert_same(both(field, torch.ones(2, 3, dtype=DOUBLE), t))


def test_the_replay_evaluates_each_stage_once() -> None:
    field, t = Recorder(Net()), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    with fastode.stats() as log:
        fastode.odeint_adjoint(field, torch.ones(2, 3, dtype=DOUBLE), t, gradient="discrete")[-1].sum().backward()
    forward, backward = log
    assert (forward.direction, backward.direction) == ("forward", "backward")
    assert forward.n_func + backward.n_func == len(field.times)
    assert forward.n_func == 2 + 6 * forward.n_steps
    # of the seven stages of a step one is the next step's first, and the last one is used only by interpolation
    assert backward.n_func <= 7 * forward.n_accepted


def test_one_state_a_step_is_kept() -> None:
    packed: list[Tensor] = []
    states: list[weakref.ref[Tensor]] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        states.append(weakref.ref(y))
        return torch.cos(y)

    y0 = torch.zeros(50, dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 3.0], dtype=DOUBLE)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x) or x, lambda x: x), fastode.stats() as log:
        y = fastode.odeint_adjoint(field, y0, t, adjoint_params=(), gradient="discrete", rtol=1e-5, atol=1e-5)
    assert len(packed) <= 2  # the inputs of the node
    alive = len({id(ref()) for ref in states if ref() is not None})
    assert alive <= log[0].n_accepted + 4
    assert log[0].n_func > 4 * alive
    y[-1].sum().backward()


def test_nothing_is_left_behind_after_the_backward_pass() -> None:
    net = Net()
    alive = weakref.ref(net)
    y = fastode.odeint_adjoint(
        net, torch.ones(3, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE), gradient="discrete"
    )
    y.sum().backward()
    gc.disable()
    try:
        del net, y
        assert alive() is None  # no reference cycle keeps it until a collection
    finally:
        gc.enable()


def test_twenty_steps_of_an_optimizer_end_where_autograd_ends() -> None:
    results = []
    for discrete in (True, False):
        net = Net()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
        y0, t = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(4, 3), torch.tensor([0.0, 1.0], dtype=DOUBLE)
        for _ in range(20):
            if discrete:
                y = fastode.odeint_adjoint(net, y0, t, rtol=1e-5, atol=1e-5, gradient="discrete")
            else:
                y = fastode.odeint(net, y0, t, rtol=1e-5, atol=1e-5)
            optimizer.zero_grad()
            (y[-1] - 1).square().mean().backward()
            optimizer.step()
        results.append([p.detach() for p in net.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_it_cannot_be_differentiated_again() -> None:
    y0 = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    y = fastode.odeint_adjoint(lambda t, y: torch.sin(y), y0, t, adjoint_params=(), gradient="discrete")
    (first,) = torch.autograd.grad(y.square().sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "explicit_adams"}, "'explicit_adams' is a multistep method; use gradient='backsolve', or odeint"),
        ({"method": "scipy_solver"}, "cannot replay method='scipy_solver'"),
        ({"event_fn": lambda t, y: y[0]}, "does not handle `event_fn`"),
        ({"gradient": "discret"}, "Did you mean 'discrete'"),
    ],
    ids=["multistep", "external", "event", "misspelt"],
)
def test_what_it_cannot_do_is_said_with_what_to_use(kwargs: dict[str, Any], message: str) -> None:
    kwargs = {"gradient": "discrete", **kwargs}
    with pytest.raises(InvalidArgument) as caught:
        fastode.odeint_adjoint(Net(), torch.ones(3, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE), **kwargs)
    assert message in str(caught.value)
