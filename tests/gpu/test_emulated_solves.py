"""Whole solves on the device whose kernels are the compiled PTX, executed by the emulator with bounds checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastode
from fastode.kernels import on_device

pytestmark = pytest.mark.usefixtures("compiles")


@pytest.fixture(params=["forward", "reverse"])
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CPU tensors stand for those of a GPU; blocks run in either order, and races between them are faults."""
    from gpu_lab.emulator import emulated_gpu

    monkeypatch.setattr(on_device, "unavailable", lambda parts: "")
    with emulated_gpu(80, order=request.param, races=True) as statistics:
        yield statistics


def spiral(t: Tensor, y: Tensor) -> Tensor:
    a, b = y[:, 0] ** 3, y[:, 1] ** 3
    return torch.stack([2 * b - 0.1 * a, -2 * a - 0.1 * b + torch.sin(t)], 1)


@pytest.mark.parametrize("rows", [1, 7, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_one_shared_step(emulated: Any, rows: int, dtype: torch.dtype) -> None:
    y0 = torch.linspace(-1, 1, 2 * rows, dtype=dtype).reshape(rows, 2)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = fastode.odeint(spiral, y0, t, rtol=1e-4, atol=1e-4, options={"engine": "triton"})
    account = fastode.last_stats()
    expected = fastode.odeint(spiral, y0, t, rtol=1e-4, atol=1e-4)
    host = fastode.last_stats()
    assert account is not None and host is not None and emulated.launches > 0
    assert (account.engine, account.n_accepted, account.n_rejected) == ("triton", host.n_accepted, host.n_rejected)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_slopes_that_are_aligned_now_and_then(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are repeated without asking Triton, but not where it would have compiled something else."""
    import fastode.kernels.triton  # binds the function as it is
    from fastode.kernels import launching

    asked = []

    def front_door(kernel: Any, *args: Any, **constants: Any) -> Any:
        asked.append(kernel.__name__)
        return original(kernel, *args, **constants)

    original = launching.front_door
    monkeypatch.setattr(launching, "front_door", front_door)
    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = torch.empty(len(y) + 1)[calls % 5 == 0 :][: len(y)]
        return torch.neg(y, out=out)

    y0, t = torch.linspace(1, 2, 64), torch.tensor([0.0, 4.0])
    found = fastode.odeint(field, y0, t, rtol=1e-4, atol=1e-4, options={"engine": "triton"})
    account = fastode.last_stats()
    assert account is not None and account.n_steps > 5
    torch.testing.assert_close(found, fastode.odeint(lambda t, y: -y, y0, t, rtol=1e-4, atol=1e-4))
    unaligned = len(asked)
    asked.clear()
    fastode.odeint(lambda t, y: -y, y0, t, rtol=1e-4, atol=1e-4, options={"engine": "triton"})
    # once for each launch of a step but the controller's, which has another one at the start
    assert sorted(asked) == ["commit_kernel", "control_kernel", "finish_kernel"] + ["stage_kernel"] * 6
    assert unaligned > len(asked)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_tape_and_its_backward_pass(emulated: Any, method: str, hosts_loop: Callable[[], None]) -> None:
    found = []
    for here in (False, True):
        if here:
            hosts_loop()
        y0 = torch.linspace(-1, 1, 700, dtype=torch.float64).reshape(350, 2).requires_grad_()
        y = fastode.odeint(spiral, y0, torch.linspace(0, 1, 3).double(), rtol=1e-4, atol=1e-4, method=method)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), y0)))
        account = fastode.last_stats()
        assert account is not None and account.engine == "autograd"
    assert emulated.launches > 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_state_of_several_parts_and_16_bits(emulated: Any) -> None:
    y0 = (torch.linspace(0.5, 2, 12).bfloat16(), torch.ones(3, 1).bfloat16())
    t, options = torch.tensor([0.0, 1.0]), {"engine": "triton"}
    found = fastode.odeint(lambda t, y: (-y[0], t * y[1]), y0, t, rtol=1e-2, atol=1e-2, options=options)
    torch.testing.assert_close(found[0][1].float(), y0[0].float() * 0.3679, rtol=0.03, atol=0.03)
    torch.testing.assert_close(found[1][1].float(), torch.full((3, 1), 1.6487), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("settings", [{}, {"controller": "PID"}, {"method": "rk4", "first_step": 0.1}], ids=str)
def test_rows_of_their_own(emulated: Any, settings: dict[str, Any]) -> None:
    mu = torch.linspace(0.5, 3, 70, dtype=torch.float64)
    y0 = torch.stack([torch.linspace(-2, 2, 70), torch.linspace(1, -1, 70)], 1).double()

    def field(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        return torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)

    settings = {"t_eval": torch.linspace(0, 0.5, 4).double(), "args": (mu,), **settings}
    found = fastode.solve(field, y0, engine="triton", **settings)
    expected = fastode.solve(field, y0, engine="native", **settings)
    torch.testing.assert_close(found.ys, expected.ys, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.stats.n_accepted, expected.stats.n_accepted)
    assert torch.equal(found.status, expected.status)


def test_long_rows_are_shared_among_programs(emulated: Any) -> None:
    y0 = torch.linspace(-1, 1, 9000, dtype=torch.float64)
    options = {"engine": "triton"}
    found = fastode.odeint(lambda t, y: -y * y * t, y0, torch.tensor([0.0, 0.5]), rtol=1e-5, atol=1e-5, options=options)
    expected = fastode.odeint(lambda t, y: -y * y * t, y0, torch.tensor([0.0, 0.5]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_a_step_moves() -> None:
    """Floats read and written for an element of the state in an accepted step of dopri5, beyond the field's own."""
    from gpu_lab.emulator import emulated_gpu

    from fastode.controller import Controller
    from fastode.kernels.triton import DeviceState, PartialSums, Tolerances, commit, control, finish, stage
    from fastode.methods import lookup

    tableau = lookup("dopri5")
    n = 64 * 1024
    y = torch.randn(n)
    k = [torch.randn(n) for _ in range(7)]
    zero = torch.zeros(1, dtype=torch.float64)
    due = torch.tensor([[1.0, torch.nan]], dtype=torch.float64)
    state = DeviceState.begin(zero, zero + 1, zero.new_empty(1, 0), due, 7, torch.float32, Controller(5), 99)
    state.real("size").fill_(1e-3)
    partial = PartialSums.of((y,), 1, lockstep=True)
    tolerances = Tolerances((y,), [1e9], [1e9]).pairs[0]
    with emulated_gpu(80):
        control(state, partial, tableau.nodes, lockstep=True, start=True)
    with emulated_gpu(80) as moved:
        for i in range(1, 7):
            y1 = stage(y, state.real("dt"), k[:i], tableau.matrix[i])
        finish(y, y1, False, state.real("dt"), k, tableau.weights, tableau.error_weights, tolerances, partial, 0)
        control(state, partial, tableau.nodes, lockstep=True)
        commit(y, y1, k, state, y[None, None], tableau.mid_weights)
    assert int(state.count("n_accepted")) == 1 and torch.equal(y, y1)
    floats = (moved.global_bytes_loaded + moved.global_bytes_stored) / 4 / n
    assert 43.9 < floats < 45
    assert moved.launches == 9


def test_few_variants_are_compiled_and_none_depends_on_batch_tolerance_or_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Addresses and sizes that are multiples of 16 make another variant than others do; nothing else does."""
    from gpu_lab.emulator import emulated_gpu

    from fastode.kernels.triton.commit import commit_kernel
    from fastode.kernels.triton.control import control_kernel, poll_kernel
    from fastode.kernels.triton.finish import finish_kernel
    from fastode.kernels.triton.stage import stage_kernel

    monkeypatch.setattr(on_device, "unavailable", lambda parts: "")
    kernels = (stage_kernel, finish_kernel, control_kernel, commit_kernel, poll_kernel)

    def variants() -> int:
        return sum(len(cache) for k in kernels for cache, *_ in k.device_caches.values())

    def solve(rows: int, times: int, tol: float) -> None:
        y0 = torch.linspace(-1, 1, 2 * rows).reshape(rows, 2)
        t = torch.linspace(0, 0.3, times)
        fastode.odeint(
            spiral, y0, t, rtol=tol, atol=tol, method="tsit5", options={"engine": "triton", "first_step": 0.1}
        )

    with emulated_gpu(80):
        solve(16, 3, 1e-2)
        solve(17, 2, 1e-2)
        known = variants()
        for rows, times, tol in ((32, 2, 1e-2), (160, 5, 1e-3), (19, 3, 1e-3), (33, 17, 1e-4), (800, 2, 1e-2)):
            solve(rows, times, tol)
            assert variants() == known, (rows, times, tol)
    # six stages, and one each of the others but the controller, which also proposes the first step
    assert known >= 6 + 5
