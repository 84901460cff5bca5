"""``solve`` on the CUDA engine: the steps and values of the reference; on a GPU, and its kernels' source on the CPU."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

import fastode
from fastode import Solution, Status, solve
from fastode.controller import Controller
from fastode.kernels import Binding, cuda, select
from fastode.kernels.cuda import launch
from fastode.kernels.native.control import limits_of
from fastode.kernels.reference.control import RowControl
from fastode.kernels.row_state import RowState

from .cases import Step
from .conftest import EngineUnderTest
from .test_cuda_sources import random_rows

double = torch.float64
METHODS = ("adaptive_heun", "fehlberg2", "bosh3", "dopri5", "dopri8", "tsit5")


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x], dim=-1)


def oscillators(n: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """States and stiffnesses, low enough that rounding errors stay small."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=double, device=device).repeat(n, 1)
    return y0, torch.linspace(0.1, 3.0, n, dtype=double, device=device)


def assert_alike(found: Solution, expected: Solution, tolerance: float = 1e-9) -> None:
    """Equal outcomes and counts; times and values up to ``tolerance``, for rounding errors grow along a solve."""
    assert torch.equal(found.status.cpu(), expected.status)
    for name in ("n_func", "n_accepted", "n_rejected"):
        assert torch.equal(getattr(found.stats, name).cpu(), getattr(expected.stats, name))
    pairs = [(found.t, expected.t)]
    for name in ("ys", "y"):
        a, b = getattr(found, name), getattr(expected, name)
        pairs += zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    for a, b in pairs:
        torch.testing.assert_close(a.cpu(), b, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
def test_every_row_takes_the_steps_of_the_reference(cuda_engine: EngineUnderTest, method: str) -> None:
    def found(device: torch.device | str, engine: str) -> Solution:
        y0, mu = oscillators(37, device)
        ends = torch.linspace(-0.5, 3.0, 37, dtype=double, device=device)
        ends[7] = 0.0
        ts = [(end * torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=double, device=device)).unique() for end in ends]
        ts = [t.flip(0) if t[0] < 0 else t for t in ts]
        return solve(van_der_pol, y0, (0.0, ends), ts, args=(mu,), method=method, engine=engine, rtol=1e-4, atol=1e-5)

    solution = found(cuda_engine.device, "cuda")
    account = fastode.last_stats()
    assert account is not None and (account.engine, account.reason) == ("cuda", "")
    assert (solution.status == Status.FINISHED).all()
    assert_alike(solution, found("cpu", "reference"))


def test_a_state_of_several_parts_with_tolerances_of_their_own(cuda_engine: EngineUnderTest) -> None:
    def field(t: Tensor, y: tuple[Tensor, ...], rate: Tensor) -> tuple[Tensor, ...]:
        a, b, c = y
        return -rate[:, None] * a, torch.sin(b) * t[:, None, None], c.flip(1) - c

    def found(device: torch.device | str, engine: str) -> Solution:
        generator = torch.Generator().manual_seed(1)
        shapes = [(11, 3), (11, 2, 2), (11, 300)]
        y0 = tuple([torch.randn(s, dtype=double, generator=generator).to(device) for s in shapes])
        rate = torch.linspace(0.1, 9.0, 11, dtype=double, device=device)
        each = torch.logspace(-6, -3, 11, dtype=double, device=device)
        rtol = (each[:, None], each[:, None, None], torch.full((300,), 1e-4, dtype=double, device=device))
        return solve(field, y0, (0.0, 1.0), args=(rate,), rtol=rtol, atol=(1e-6, 1e-5, 1e-5), engine=engine)

    solution = found(cuda_engine.device, "cuda")
    assert len(solution.stats.n_accepted.unique()) > 2
    assert_alike(solution, found("cpu", "reference"))


def test_single_precision_is_solved_in_single_precision(cuda_engine: EngineUnderTest) -> None:
    def found(device: torch.device | str, engine: str) -> Solution:
        y0, mu = (x.float() for x in oscillators(20, device))
        return solve(van_der_pol, y0, (0.0, 1.0), args=(mu,), engine=engine, rtol=1e-3, atol=1e-4)

    solution = found(cuda_engine.device, "cuda")
    assert solution.ys.dtype == torch.float32
    # the estimated error of the first steps is rounding noise, so sizes of steps differ, and values within rtol
    assert_alike(solution, found("cpu", "reference"), tolerance=1e-3)


def test_a_row_that_fails_stops_alone(cuda_engine: EngineUnderTest) -> None:
    def field(t: Tensor, y: Tensor, kind: Tensor) -> Tensor:
        blows_up = torch.where(kind == 1, y * y, -y)
        return torch.where(kind == 2, math.nan, torch.where(kind == 3, -60 * y, blows_up))

    def found(device: torch.device | str, engine: str, rows: slice = slice(None)) -> Solution:
        kind = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0], dtype=double, device=device)[rows, None]
        y0 = torch.ones(len(kind), 1, dtype=double, device=device)
        return solve(field, y0, (0.0, 3.0), args=(kind,), engine=engine, max_steps=80, rtol=1e-6, atol=1e-9)

    solution = found(cuda_engine.device, "cuda")
    expected = found("cpu", "reference")
    assert {Status(int(s)) for s in expected.status} >= {Status.FINISHED, Status.NON_FINITE, Status.TOO_MANY_STEPS}
    good = [0, 4]
    assert torch.equal(solution.status.cpu(), expected.status)
    assert torch.equal(solution.stats.n_steps.cpu(), expected.stats.n_steps)
    torch.testing.assert_close(solution.y[good].cpu(), expected.y[good], rtol=1e-9, atol=0)
    assert torch.equal(solution.y[4], found(cuda_engine.device, "cuda", slice(4, 5)).y[0])


@pytest.mark.parametrize("compact", [True, False])
def test_a_row_does_not_depend_on_its_batch(cuda_engine: EngineUnderTest, compact: bool) -> None:
    y0, mu = oscillators(9, cuda_engine.device)
    kwargs: dict[str, Any] = {"engine": "cuda", "compact": compact, "method": "dopri8"}
    ts = torch.linspace(0, 2, 5, dtype=double, device=cuda_engine.device)
    together = solve(van_der_pol, y0, t_eval=ts, args=(mu,), **kwargs)
    for i in range(9):
        alone = solve(van_der_pol, y0[i : i + 1], t_eval=ts, args=(mu[i : i + 1],), **kwargs)
        assert torch.equal(together.ys[i], alone.ys[0])
        assert torch.equal(together.stats.n_steps[i], alone.stats.n_steps[0])
        assert torch.equal(together.stats.dt[i], alone.stats.dt[0])


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_steps_of_a_given_size_are_those_of_the_reference(cuda_engine: EngineUnderTest, method: str) -> None:
    def found(device: torch.device | str, engine: str) -> Solution:
        y0, mu = oscillators(9, device)
        mu[3] = math.nan
        sizes = torch.linspace(0.01, 0.2, 9, dtype=double, device=device)
        ts = torch.linspace(0, 0.5, 4, dtype=double, device=device)
        return solve(van_der_pol, y0, t_eval=ts, args=(mu,), method=method, first_step=sizes, engine=engine)

    solution = found(cuda_engine.device, "cuda")
    assert int(solution.status[3]) == Status.NON_FINITE
    assert_alike(solution, found("cpu", "reference"))


def test_stops_jumps_events_and_dense_output_are_those_of_the_reference(cuda_engine: EngineUnderTest) -> None:
    def field(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        return van_der_pol(t, y, mu) + torch.where(t < 0.7, 0.0, 1.0)[:, None]

    def found(device: torch.device | str, engine: str) -> tuple[Solution, Tensor]:
        y0, mu = oscillators(9, device)
        ts, stops = (torch.linspace(0, 3, n, dtype=double, device=device) for n in (7, 9))
        solution = solve(
            field, y0, t_eval=ts, args=(mu,), engine=engine, dense=True, step_t=stops, jump_t=stops.new_tensor([0.7]),
            event_fn=lambda t, y, mu: y[:, 0] - 1.5,
        )  # fmt: skip
        return solution, solution.sol(0.5)

    (solution, between), (expected, expected_between) = found(cuda_engine.device, "cuda"), found("cpu", "reference")
    assert {Status.EVENT, Status.FINISHED} == {Status(int(s)) for s in expected.status}
    assert_alike(solution, expected)
    torch.testing.assert_close(solution.event_t[0].cpu(), expected.event_t[0], rtol=1e-9, atol=0, equal_nan=True)
    torch.testing.assert_close(between.cpu(), expected_between, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gradient", ["discrete", "autograd", "backsolve"])
def test_gradients_are_those_of_the_reference(cuda_engine: EngineUnderTest, gradient: str) -> None:
    def found(device: torch.device | str, engine: str) -> tuple[Tensor, ...]:
        inputs = [x.requires_grad_() for x in oscillators(6, device)]
        ts = torch.linspace(0, 1, 4, dtype=double, device=device)
        solution = solve(van_der_pol, inputs[0], t_eval=ts, args=(inputs[1],), engine=engine, gradient=gradient)
        return torch.autograd.grad(solution.ys.square().sum(), inputs)

    for a, b in zip(found(cuda_engine.device, "cuda"), found("cpu", "reference"), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("filter", [(1.0, 0.0, 0.0), (0.58, -0.21, 0.1)], ids=["I", "PID"])
def test_the_controller_decides_as_the_reference(
    cuda_engine: EngineUnderTest, filter: tuple[float, float, float]
) -> None:
    controller = Controller(order=5, filter=filter)
    ours = random_rows(1000)
    ours.due.copy_(ours.t + (ours.t_end - ours.t) * 1e-3)
    theirs = RowState(*[getattr(ours, f.name).to(cuda_engine.device, copy=True) for f in fields(RowState)])
    reference, kernel = RowControl(ours, controller, 4), cuda.CudaControl(theirs, controller, 4)
    reference.start()
    kernel.start()
    for _ in range(6):
        *expected, outputs = reference.control()
        *found, positions = kernel.control()
        assert found == expected and torch.equal(positions.cpu(), outputs)
        for f in fields(RowState):
            # pow may differ in the last place
            torch.testing.assert_close(
                getattr(theirs, f.name).cpu(), getattr(ours, f.name), rtol=1e-13, atol=0, equal_nan=True, msg=f.name
            )
    assert len(ours.status.unique()) >= 3


@pytest.mark.parametrize("columns", [1, 3, 256, 257, 1000])
def test_the_norms_of_rows_are_those_of_the_reference(cuda_engine: EngineUnderTest, columns: int) -> None:
    step = Step("dopri8", (67, columns), double, cuda_engine.device, rows=True)
    found = step.run(cuda_engine)
    step.device = torch.device("cpu")
    for name in ("y", "t", "dt", "x"):
        setattr(step, name, getattr(step, name).cpu())
    step.k = [k.cpu() for k in step.k]
    expected = step.run(fastode.kernels.Engine("reference", ""))
    torch.testing.assert_close(found.err.cpu(), expected.err, rtol=1e-11, atol=0)
    torch.testing.assert_close(found.y1.cpu(), expected.y1, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.between.cpu(), expected.between, rtol=1e-12, atol=1e-12)


def test_a_tape_can_take_over_within_a_step(cuda_engine: EngineUnderTest) -> None:
    step = Step("dopri5", (5, 2), double, cuda_engine.device, rows=True)
    expected = step.run(cuda_engine)
    kernels = cuda_engine.bind(Binding(step.tableau, (step.y,), [step.rtol], [step.atol], rows=5))
    kernels.begin(step.t, step.dt, step.t + step.dt, (step.y,))
    for i in range(1, 4):
        kernels.stage(i, (step.k[i - 1],))
    tape = kernels.to_tape()
    for i in range(4, step.tableau.stages):
        tape.stage(i, (step.k[i - 1],))
    (y1,), err = tape.finish((step.k[-1],))
    torch.testing.assert_close(y1, expected.y1, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(err, expected.err, rtol=1e-11, atol=0)


@pytest.fixture
def gpu() -> torch.device:
    """A GPU that the CUDA engine can use."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    if reason := cuda.unavailable((torch.zeros(1, device=device),), rows=True):
        pytest.skip(reason)
    return device


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # torch's own, when it is switched on
def test_no_kernel_waits_for_the_device(gpu: torch.device) -> None:
    step = Step("dopri8", (64, 5), double, gpu, rows=True)
    kernels = EngineUnderTest("cuda", "cuda").bind(Binding(step.tableau, (step.y,), [step.rtol], [step.atol], rows=64))
    t1, zero = step.t + step.dt, torch.zeros(64, dtype=double, device=gpu)
    limits = limits_of(Controller(order=5))

    def attempt(stream: int) -> Tensor:
        state = RowState.begin(zero, zero + 1, zero + 0.1)
        launch.native.start_rows(64, state.addresses, limits, 9, stream)
        kernels.begin(step.t, step.dt, t1, (step.y,))
        for i in range(1, step.tableau.stages):
            kernels.stage(i, (step.k[i - 1],))
        kernels.finish((step.k[-1],))
        kernels.interpolate(step.x)
        launch.native.control_rows(64, state.addresses, limits, 9, stream)
        return state.accept

    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        attempt(stream.cuda_stream)  # loads the kernels and allocates, which may wait
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000_000)  # about a second
        torch.cuda.set_sync_debug_mode("error")
        try:
            accept = attempt(stream.cuda_stream)
            assert not stream.query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert accept.all()


@pytest.mark.gpu
def test_kernels_go_to_the_stream_of_the_caller(gpu: torch.device) -> None:
    y0, mu = oscillators(37, gpu)
    expected = solve(van_der_pol, y0, (0.0, 2.0), args=(mu,), engine="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = solve(van_der_pol, y0, (0.0, 2.0), args=(mu,), engine="cuda")
    torch.cuda.synchronize()
    assert torch.equal(found.ys, expected.ys)


@pytest.mark.gpu
def test_a_state_on_another_device_than_the_current_one_is_solved_there(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    y0, mu = oscillators(5, "cuda:1")
    found = solve(van_der_pol, y0, (0.0, 1.0), args=(mu,), engine="cuda")
    assert found.ys.device.index == 1
    assert_alike(found, solve(van_der_pol, y0.cpu(), (0.0, 1.0), args=(mu.cpu(),)))


@pytest.mark.gpu
def test_the_host_loop_of_rows_on_a_gpu_has_the_cuda_engine(gpu: torch.device) -> None:
    y = torch.ones(2, 1, device=gpu)
    chosen = select((y,), rows=True)
    assert (chosen.name, chosen.reason) == ("cuda", "")
    assert select((y.to(torch.complex64),), rows=True).reason == "the state is torch.complex64"
