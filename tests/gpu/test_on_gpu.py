"""What only a GPU can show of solves that live there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode import solve
from fastode.nn import CNF

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("triton", reason="triton is not installed")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([y, t.expand(len(y), 1)], 1))


TIMES = torch.linspace(0, 1, 4, dtype=torch.float64)


def same_on_both(run: Callable[[nn.Module, Tensor, Tensor], list[Tensor]], engine: str = "triton") -> None:
    """``run(net, y0, t)`` gives the same on the GPU as on the CPU."""
    net, y0 = Net(), torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    expected = run(net, y0.clone(), TIMES)
    on_gpu = Net().cuda()
    found = run(on_gpu, y0.cuda(), TIMES.cuda())
    account = fastode.last_stats()
    assert account is not None and account.engine == engine, account
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "tsit5", "adaptive_heun", "rk4"])
def test_odeint(method: str) -> None:
    def run(net: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [fastode.odeint(net, y0, t, method=method, rtol=1e-5, atol=1e-6)]

    same_on_both(run)


@pytest.mark.parametrize("gradient", ["backsolve", "discrete"])
def test_gradients(gradient: str) -> None:
    def run(net: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
        y0.requires_grad_()
        out = fastode.odeint_adjoint(net, y0, t, rtol=1e-6, atol=1e-6, gradient=gradient)
        out[1:].square().sum().backward()
        return [out, y0.grad, *[p.grad for p in net.parameters()]]

    same_on_both(run, "reference" if gradient == "discrete" else "triton")


def test_rows() -> None:
    def run(net: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
        scale = torch.linspace(0.1, 5, len(y0), dtype=y0.dtype, device=y0.device).requires_grad_()

        def field(t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
            return scale[:, None] * torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)

        solution = solve(field, y0, t_eval=t, args=(scale,))
        solution.ys.square().sum().backward()
        return [solution.ys, scale.grad, solution.stats.n_accepted.double()]

    same_on_both(run, "cuda" if fastode.kernels.cuda.unavailable((torch.zeros(1).cuda(),), True) == "" else "reference")


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_compiled_fields_and_their_gradients(method: str) -> None:
    def run(net: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
        y0.requires_grad_()
        out = fastode.odeint(fastode.compile(net), y0, t, rtol=1e-6, atol=1e-6, method=method)
        out[1:].square().sum().backward()
        return [out, y0.grad, *[p.grad for p in net.parameters()]]

    same_on_both(run, "compiled")


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_densities_of_flows(trace: str) -> None:
    noise = torch.tensor([[1.0, -1.0], [-1.0, -1.0]]).double().repeat(4, 1)[:7]

    def run(net: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
        flow = CNF(net, 2, trace=trace, rtol=1e-5, atol=1e-5).to(y0.device)
        density = flow.log_prob(y0, noise=noise.to(y0.device))
        density.sum().backward()
        assert flow.served_by == ("compiled", "")
        return [density, *[p.grad for p in net.parameters()]]

    same_on_both(run, "compiled")


def test_compiled_rows_and_their_gradients() -> None:
    def run(net: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
        scale = torch.linspace(0.1, 5, len(y0), dtype=y0.dtype, device=y0.device).requires_grad_()

        def field(t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
            return scale[:, None] * torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)

        solution = solve(fastode.compile(field), y0, t_eval=t, args=(scale,))
        solution.ys.square().sum().backward()
        return [solution.ys, scale.grad, solution.stats.n_accepted.double()]

    same_on_both(run, "compiled")


@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_the_precision_of_products(precision: str) -> None:
    net, y0 = Net().float().cuda(), torch.randn(500, 2).cuda()
    field = fastode.compile(net, precision=precision)
    with torch.no_grad():
        found = fastode.odeint(field, y0, TIMES.float().cuda(), rtol=1e-5, atol=1e-5)[-1]
        exact = fastode.odeint(net.double(), y0.double(), TIMES.cuda(), rtol=1e-9, atol=1e-9)[-1]
    error = float((found - exact).abs().max())
    assert error < (2e-2 if precision == "tf32" else 1e-4)


def test_a_captured_attempt_takes_the_same_steps() -> None:
    net, y0 = Net().cuda(), torch.randn(33, 2, dtype=torch.float64).cuda()
    t = torch.tensor([0.0, 3.0]).cuda()
    with torch.no_grad():
        expected = fastode.odeint(net, y0, t, rtol=1e-8, atol=1e-8)
        steps = fastode.last_stats()
        found = fastode.odeint(net, y0, t, rtol=1e-8, atol=1e-8, options={"cuda_graph": True})
    account = fastode.last_stats()
    assert account is not None and steps is not None
    assert (account.reason, account.cuda_graph) == ("", "captured")
    assert (account.n_func, account.n_accepted) == (steps.n_func, steps.n_accepted)
    assert torch.equal(found, expected)


def test_a_wide_compiled_field_is_captured_solve_after_solve_in_the_same_memory() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(300, 300).double().cuda()

    def net(t: Tensor, y: Tensor) -> Tensor:
        return layer(y).tanh()

    y0, t = torch.randn(64, 300, dtype=torch.float64).cuda(), torch.tensor([0.0, 6.0]).cuda()
    field, settings = fastode.compile(net), {"rtol": 1e-8, "atol": 1e-8}
    with torch.no_grad():
        expected = fastode.odeint(net, y0, t, **settings)
        reserved = []
        for _ in range(4):
            found = fastode.odeint(field, y0, t, **settings)
            account = fastode.last_stats()
            assert account is not None and account.cuda_graph == "captured"
            assert torch.equal(found, expected)
            reserved.append(torch.cuda.memory_reserved())
    assert reserved[1] == reserved[-1]


def test_solves_follow_the_stream_of_the_caller() -> None:
    net, y0, t = Net().cuda(), torch.randn(33, 2, dtype=torch.float64).cuda(), torch.tensor([0.0, 1.0]).cuda()
    with torch.no_grad():
        expected = fastode.odeint(net, y0, t)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            found = fastode.odeint(net, y0, t)
    torch.cuda.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # torch's own, when it is switched on
def test_between_polls_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastode.device.progress import Progress

    ask = Progress.ask

    def counted(self: Progress, state: object) -> tuple[int, int]:
        torch.cuda.set_sync_debug_mode("default")
        answer = ask(self, state)  # type: ignore[arg-type]
        torch.cuda.set_sync_debug_mode("error" if answer[0] else "default")
        return answer

    monkeypatch.setattr(Progress, "ask", counted)
    net, y0, t = Net().cuda(), torch.randn(33, 2, dtype=torch.float64).cuda(), torch.tensor([0.0, 1.0]).cuda()
    with torch.no_grad():
        fastode.odeint(net, y0, t)
    assert torch.cuda.get_sync_debug_mode() == 0
