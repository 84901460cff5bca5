"""Solves of compiled fields by fused kernels, through the public functions, beside the CPU's engine.

CPU tensors stand for those of a GPU: the dispatcher is told that they are on one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from gpu_lab.counting import counting_synchronisations
from torch import Tensor, nn

import fastode
from fastode.compiler.gpu.refusal import NotFused
from fastode.nn import CNF, NeuralODE


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switches the dispatcher between the kernels of a GPU and the CPU's engine."""

    def switch(gpu: bool) -> None:
        monkeypatch.setattr("fastode.compiler.dispatch.on_gpu", lambda y: gpu)
        monkeypatch.setattr("fastode.compiler.rows.on_gpu", lambda y: gpu)

    return switch


class Net(nn.Module):
    """A field of two hidden layers, or of one."""

    def __init__(self, layers: int = 2, width: int = 16) -> None:
        super().__init__()
        sizes = [3, *[width] * layers]
        hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*hidden, nn.Linear(width, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, t.expand(len(y), 1)], 1))


def both(switch: Callable[[bool], None], run: Callable[[], list[Tensor]]) -> list[Any]:
    """The accounts of ``run()`` on the GPU's kernels and on the CPU's engine, whose tensors are the same."""
    results, accounts = [], []
    for gpu in (True, False):
        switch(gpu)
        with fastode.stats() as log:
            results.append(run())
        accounts.append(list(log))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10, equal_nan=True)
    for found, expected in zip(*accounts, strict=True):
        assert (found.engine, found.reason) == (expected.engine, expected.reason) == ("compiled", "")
        assert (found.n_accepted, found.n_rejected) == (expected.n_accepted, expected.n_rejected)
    return accounts[0]


@pytest.mark.parametrize("rows", [1, 21])
@pytest.mark.parametrize(
    ("method", "options"),
    [("dopri5", None), ("bosh3", {"first_step": 0.1}), ("tsit5", {"max_step": 0.2}),
     ("dopri5", {"first_step": 0.3, "min_step": 0.3, "safety": 0.1}), ("rk4", {"step_size": 0.21}),
     ("euler", None)],
)  # fmt: skip
def test_odeint_and_its_gradient(
    on_gpu: Callable[[bool], None], method: str, options: dict[str, Any] | None, rows: int
) -> None:
    net, y0 = Net(), torch.randn(rows, 2).double()
    field = fastode.compile(net)
    for t in (torch.linspace(0, 1, 4).double(), torch.linspace(1, 0, 2).double()):

        def run(t: Tensor = t) -> list[Tensor]:
            y = y0.clone().requires_grad_()
            net.zero_grad()
            out = fastode.odeint(field, y, t, rtol=1e-4, atol=1e-4, method=method, options=options)
            out.square().sum().backward()
            return [out.detach(), y.grad, *[p.grad.clone() for p in net.parameters()]]

        both(on_gpu, run)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_flow_its_density_and_their_gradient(on_gpu: Callable[[bool], None], layers: int, trace: str) -> None:
    """Two and three affine maps have a closed form of the divergence, four push tangents."""
    flow = CNF(Net(layers), 2, trace=trace, rtol=1e-3, atol=1e-3)
    x, noise = torch.randn(9, 2).double(), torch.randn(9, 2).double().sign()

    def run() -> list[Tensor]:
        flow.zero_grad()
        loss = -flow.log_prob(x, noise=noise).mean()
        loss.backward()
        return [loss.detach(), *[p.grad.clone() for p in flow.parameters()]]

    accounts = both(on_gpu, run)
    assert flow.served_by == ("compiled", "")
    assert [a.direction for a in accounts] == ["forward", "backward"]


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_state_of_several_parts(on_gpu: Callable[[bool], None], method: str) -> None:
    net = Net(1)

    def func(t: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        slope = net(t, state["y"])
        return {"y": slope, "more": (slope.square().sum(1), -state["more"][1] * torch.sin(9 * t))}

    field = fastode.compile(func)
    y0 = {"y": torch.randn(9, 2).double(), "more": (torch.zeros(9).double(), 10 * torch.randn(9, 1, 3).double())}
    options = {"step_size": 0.2} if method == "rk4" else None

    def run() -> list[Tensor]:
        y = y0["y"].clone().requires_grad_()
        net.zero_grad()
        t = torch.linspace(0, 1, 3).double()
        out = fastode.odeint(field, y0 | {"y": y}, t, rtol=1e-4, atol=1e-4, method=method, options=options)
        parts = [out["y"], *out["more"]]
        sum(p.square().sum() for p in parts).backward()
        return [*[p.detach() for p in parts], y.grad, *[p.grad.clone() for p in net.parameters()]]

    both(on_gpu, run)


def test_a_layer_with_the_adjoint_of_its_own(on_gpu: Callable[[bool], None]) -> None:
    layer = NeuralODE(Net(1), rtol=1e-4, atol=1e-4)
    x = torch.randn(5, 2).double()

    def run() -> list[Tensor]:
        layer.zero_grad()
        out = layer(x)
        out.sum().backward()
        return [out.detach(), *[p.grad.clone() for p in layer.parameters()]]

    both(on_gpu, run)


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    return torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)


ROWS = 19
MU = torch.linspace(0.5, 3, ROWS, dtype=torch.float64)
Y0 = torch.stack([torch.linspace(-2, 2, ROWS), torch.linspace(1, -1, ROWS)], 1).double()
TIMES = torch.linspace(0, 0.9, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"controller": "PID", "method": "bosh3", "rtol": 1e-3},
        {"t_eval": None, "t_span": (torch.zeros(ROWS).double(), torch.linspace(-0.5, 0.5, ROWS).double())},
        {"max_steps": 4},
        {"first_step": torch.full((ROWS,), 0.01), "rtol": torch.logspace(-6, -3, ROWS)[:, None].double()},
        {"t_eval": [torch.linspace(0, 0.5 + i / 30, 1 + i % 4 + 1).double() for i in range(ROWS)]},
    ],
    ids=lambda s: "-".join(s) or "dopri5",
)
def test_rows_of_their_own_and_their_gradient(on_gpu: Callable[[bool], None], settings: dict[str, Any]) -> None:
    field = fastode.compile(van_der_pol)
    settings = {"t_eval": TIMES, **settings}

    def run() -> list[Tensor]:
        mu, y0 = MU.clone().requires_grad_(), Y0.clone().requires_grad_()
        solution = fastode.solve(field, y0, args=(mu,), **settings)
        (solution.ys[:, 1:].nan_to_num().square().sum() + solution.y.sum()).backward()
        counts = [solution.stats.n_func, solution.stats.n_accepted, solution.stats.n_rejected, solution.status]
        return [solution.ys.detach(), solution.y.detach(), solution.t, *counts, y0.grad, mu.grad]

    both(on_gpu, run)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_flow_whose_times_require_grad(on_gpu: Callable[[bool], None], trace: str) -> None:
    flow = CNF(Net(), 2, trace=trace, rtol=1e-3, atol=1e-3)
    x, noise = torch.randn(2, 5, 2).double()

    def run() -> list[Tensor]:
        t = torch.tensor([0.1, 0.8], dtype=torch.float64, requires_grad=True)
        log_prob = flow.log_prob(x, noise=noise, t=t)
        return [log_prob.detach(), *torch.autograd.grad(log_prob.sum(), [t])]

    both(on_gpu, run)


def test_rows_of_a_single_number(on_gpu: Callable[[bool], None]) -> None:
    field = fastode.compile(lambda t, y: -y * torch.cos(t))
    y0 = torch.linspace(0.2, 1.5, 5, dtype=torch.float64, requires_grad=True)

    def run() -> list[Tensor]:
        solution = fastode.solve(field, y0, t_eval=torch.linspace(0, 1, 4).double())
        assert solution.ys.shape == (5, 4)
        return [solution.ys, *torch.autograd.grad(solution.ys.sum() + solution.y.square().sum(), [y0])]

    both(on_gpu, run)


def test_more_steps_than_there_was_room_for(on_gpu: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastode.compiler.gpu.row_solve._STEPS", 3)
    test_rows_of_their_own_and_their_gradient(on_gpu, {})


def test_failures_are_those_of_the_cpu(on_gpu: Callable[[bool], None]) -> None:
    field = fastode.compile(lambda t, y: torch.where(t > 0.25, torch.nan, 1.0) * y)
    y0, t = torch.ones(3, 2).double(), torch.tensor([0.0, 1.0]).double()
    least = {"first_step": 0.1, "min_step": 0.1}
    limits: list[dict[str, Any]] = [{}, {"max_num_steps": 2}, {"max_total_steps": 2}, least]
    for y, options in (*[(y0, limit) for limit in limits], (y0 * torch.nan, {})):
        said = []
        for gpu in (True, False):
            on_gpu(gpu)
            with pytest.raises(fastode.SolverError) as caught:
                fastode.odeint(field, y, t, rtol=1e-8, atol=1e-8, options=options)
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]


@pytest.mark.parametrize(
    ("why", "solve"),
    [
        ("a memory budget", lambda f, y, t: fastode.odeint(fastode.compile(f, memory=1000), y, t)),
        ("a memory budget", lambda f, y, t: fastode.solve(fastode.compile(f, memory=1000), y, t_eval=t)),
        ("dense output on a GPU", lambda f, y, t: fastode.odeint_dense(fastode.compile(f), y, *t)),
        ("dense output on a GPU", lambda f, y, t: fastode.solve(fastode.compile(f), y, t_eval=t, dense=True)),
        (
            "not at the new state",
            lambda f, y, t: fastode.odeint(fastode.compile(f), y, t, method="fehlberg2", rtol=1e-3),
        ),
        (
            "not at the new state",
            lambda f, y, t: fastode.solve(fastode.compile(f), y, t_eval=t, method="adaptive_heun"),
        ),
        (
            "error estimate",
            lambda f, y, t: fastode.solve(fastode.compile(f), y, t_eval=t, method="rk4", first_step=0.5),
        ),
        ("each feature", lambda f, y, t: fastode.odeint(fastode.compile(f), y, t, rtol=torch.tensor([1e-3, 1e-4]))),
        ("steps must end", lambda f, y, t: fastode.odeint(fastode.compile(f), y, t, options={"step_t": t[:1] + 0.5})),
        ("steps must end", lambda f, y, t: fastode.solve(fastode.compile(f), y, t_eval=t, step_t=t[:1] + 0.5)),
        (
            "gradients of a grid",
            lambda f, y, t: fastode.odeint(fastode.compile(f), y, t.clone().requires_grad_(), method="rk4"),
        ),
    ],
)
def test_what_no_kernel_serves_takes_the_loop_and_says_why(
    on_gpu: Callable[[bool], None], why: str, solve: Callable[..., Any]
) -> None:
    on_gpu(True)
    solve(lambda t, y: -y, torch.ones(3, 2).double(), torch.tensor([0.0, 1.0]).double())
    account = fastode.last_stats()
    assert account is not None
    assert account.engine != "compiled" and account.reason.startswith("not native: ") and why in account.reason


def test_a_field_whose_gradient_has_no_kernel_is_refused_before_it_is_solved(
    on_gpu: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a gradient it is served."""

    def refuse(*_: Any) -> Any:
        raise NotFused("the adjoint is too wide")

    monkeypatch.setattr("fastode.compiler.gpu.fused_sweep.adjoint_field_of", refuse)
    on_gpu(True)
    field, mu = fastode.compile(van_der_pol), MU.clone().requires_grad_()
    runs = [
        lambda mu: fastode.odeint(fastode.compile(lambda t, y: -y), Y0 * mu[:, None], TIMES)[-1],
        lambda mu: fastode.solve(field, Y0, t_eval=TIMES, args=(mu,)).ys,
    ]
    for run in runs:
        run(mu).sum().backward()
        with fastode.stats() as log:
            run(mu)
            run(mu.detach())
        assert log[1].engine == "compiled"
        assert log[0].engine != "compiled" and log[0].reason.endswith("no fused GPU kernel: the adjoint is too wide")


def test_a_field_that_is_too_wide_is_refused_by_its_width(on_gpu: Callable[[bool], None]) -> None:
    on_gpu(True)
    wide = nn.Sequential(nn.Linear(2, 700), nn.Tanh(), nn.Linear(700, 2)).double()
    fastode.odeint(fastode.compile(lambda t, y: wide(y)), torch.ones(3, 2).double(), torch.tensor([0.0, 0.1]).double())
    account = fastode.last_stats()
    assert account is not None and "no fused GPU kernel" in account.reason and "700" in account.reason


def test_an_unknown_precision_lists_the_known_ones() -> None:
    with pytest.raises(fastode.InvalidArgument, match=r"`precision='half'` is not known\. Known: ieee, tf32x3, tf32"):
        fastode.compile(van_der_pol, precision="half")


def test_a_training_step_on_a_grid_does_not_wait(
    on_gpu: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu(True)
    field, y0 = fastode.compile(Net()), torch.randn(5, 2, dtype=torch.float64)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def train() -> None:
        y = fastode.odeint_adjoint(field, y0, times, method="rk4", options={"step_size": 0.25})
        y[-1].sum().backward()

    train()
    copied: list[object] = []
    tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: (copied.append(k.get("device")), tensor(*a, **k))[1])
    with counting_synchronisations() as waits:
        train()
    # the times are on the host
    assert [
        w for w in waits if not w.split(":")[0].endswith(("problem.py", "dispatch.py", "steps.py", "fixed_grid.py"))
    ] == []
    assert copied and set(copied) == {None}, "numbers of the host are copied without upload"
