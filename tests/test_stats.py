"""``fastode.stats()`` and ``last_stats()``: exact counts, engine, direction and reason in every mode."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from gradients.comparing import Mixing, backsolve, discrete, gradients, steady
from problems import Recorder, oscillator
from torch import Tensor

import fastode
from fastode.stats import SolveStats

pytest.importorskip("fastode._native", reason="the native module is not built")

Y0 = torch.tensor([[0.2, -0.4, 1.1]], dtype=torch.float64)
T = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
WAYS = {"autograd": fastode.odeint, "discrete": discrete, "backsolve": backsolve}
#: four steps, each of which ends where the grid does
STEPS = 4


def accounts(way: str, t_grad: bool, method: str) -> tuple[list[SolveStats], int]:
    """The accounts of a solve and its backward pass, and how often the field was called."""
    func = Recorder(Mixing())
    with fastode.stats() as log:
        gradients(WAYS[way], func, Y0, T, t_grad=t_grad, **steady(method))
    return list(log), len(func.times)


#: evaluations forward and backward, without and with gradients of time
EXPECTED = {
    ("autograd", "dopri5"): [(1 + 6 * STEPS,), (1 + 6 * STEPS,)],
    ("autograd", "rk4"): [(4 * STEPS,), (4 * STEPS,)],
    # the replay of a step starts from the last stage of the one before; each output's time derivative asks for the end
    ("discrete", "dopri5"): [(1 + 6 * STEPS, 6 * STEPS), (1 + 6 * STEPS, 6 * STEPS + 2)],
    ("discrete", "rk4"): [(4 * STEPS, 4 * STEPS), (4 * STEPS, 4 * STEPS)],
    # the start, and the jump at the time between; one slope of each output for its time derivative
    ("backsolve", "dopri5"): [(1 + 6 * STEPS, 1 + 6 * STEPS + 1), (1 + 6 * STEPS, 1 + 6 * STEPS + 1 + 2)],
    ("backsolve", "rk4"): [(4 * STEPS, 4 * STEPS), (4 * STEPS, 4 * STEPS + 2)],
}


@pytest.mark.parametrize("t_grad", [False, True], ids=["no gradient of t", "gradient of t"])
@pytest.mark.parametrize(("way", "method"), EXPECTED)
def test_every_evaluation_and_step_is_counted_in_its_direction(way: str, method: str, t_grad: bool) -> None:
    log, calls = accounts(way, t_grad, method)
    assert [s.n_func for s in log] == list(EXPECTED[way, method][t_grad])
    assert sum(s.n_func for s in log) == calls
    assert [s.direction for s in log] == ["forward", "backward"][: len(log)]
    assert {s.method for s in log} == {method}
    assert {(s.n_accepted, s.n_rejected, s.n_steps) for s in log} == {(STEPS, 0, STEPS)}
    assert log[0].t == 1.0 and log[0].dt == (0.25 if method == "dopri5" else 0.0)


@pytest.mark.parametrize(
    ("way", "method", "engines"),
    [
        ("autograd", "dopri5", ["autograd"]),
        ("autograd", "rk4", ["autograd"]),
        ("discrete", "dopri5", ["native", "native"]),
        ("discrete", "rk4", ["native", "autograd"]),
        ("backsolve", "dopri5", ["native", "native"]),
        ("backsolve", "rk4", ["native", "native"]),
        ("discrete", "gl4", ["reference", "reference"]),
    ],
)
def test_the_engine_that_served_is_named(way: str, method: str, engines: list[str]) -> None:
    log, _ = accounts(way, False, method)
    assert [s.engine for s in log] == engines
    for s in log:
        assert ("torch.linalg" in s.reason) if s.engine == "reference" else s.reason == ""


@pytest.mark.parametrize(
    ("y0", "options", "reason"),
    [
        (Y0.to(torch.complex128), {}, "the state is torch.complex128"),
        (Y0, {"engine": "reference"}, "asked for by name"),
    ],
    ids=["complex", "named"],
)
def test_the_reference_engine_says_why_it_served(y0: Tensor, options: dict[str, Any], reason: str) -> None:
    with fastode.stats() as log:
        fastode.odeint(oscillator, y0, T, options=options)
    assert (log[0].engine, log[0].reason) == ("reference", reason)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8"])
def test_accepted_and_rejected_steps_are_those_that_callbacks_see(method: str) -> None:
    seen: Counter[str] = Counter()
    func = Recorder(lambda t, y: torch.cos(y) + torch.sin(30 * t) * 20)
    for name in ("callback_step", "callback_accept_step", "callback_reject_step"):
        setattr(func, name, lambda t, y, dt, name=name: seen.update([name]))
    with fastode.stats() as log:
        fastode.odeint(func, Y0, T, method=method, rtol=1e-5, atol=1e-5)
    (s,) = log
    assert s.n_rejected > 0
    assert seen == {
        "callback_step": s.n_steps, "callback_accept_step": s.n_accepted, "callback_reject_step": s.n_rejected
    }  # fmt: skip
    assert s.n_func == len(func.times)


def test_an_event_counts_the_way_to_it() -> None:
    func = Recorder(Mixing())
    options = steady("dopri5")["options"]
    with torch.no_grad(), fastode.stats() as log:
        t, _ = fastode.odeint(func, Y0, T[:2], event_fn=lambda t, y: t - 0.8, options=options)
    assert log[0].n_func == len(func.times) == 1 + 6 * STEPS
    assert log[0].n_accepted == STEPS and log[0].t == t.item()


def test_a_dense_solution_and_an_external_method_are_counted_too() -> None:
    func = Recorder(Mixing())
    with torch.no_grad(), fastode.stats() as log:
        fastode.odeint_dense(func, Y0, 0.0, 1.0, **steady("dopri5"))
        dense = len(func.times)
        fastode.odeint(func, Y0, T, method="scipy_solver")
    assert [s.n_func for s in log] == [dense, len(func.times) - dense]
    assert dense == 1 + 6 * STEPS
    assert (log[1].method, log[1].engine) == ("scipy_solver", "scipy")


def test_a_log_sums_its_solves_and_a_nested_one_sees_only_its_own() -> None:
    with fastode.stats() as outer:
        fastode.odeint(oscillator, Y0, T, **steady("dopri5"))
        with fastode.stats() as inner:
            fastode.odeint(oscillator, Y0, T, **steady("rk4"))
    fastode.odeint(oscillator, Y0, T)
    assert [s.method for s in outer] == ["dopri5", "rk4"] and [s.method for s in inner] == ["rk4"]
    assert outer[1] is inner[0]
    assert (outer.n_func, outer.n_steps) == (1 + 6 * STEPS + 4 * STEPS, 2 * STEPS)


def test_the_last_account_is_that_of_the_most_recent_solve() -> None:
    fastode.odeint(oscillator, Y0, T, **steady("rk4"))
    last = fastode.last_stats()
    assert last is not None and (last.method, last.direction, last.n_func) == ("rk4", "forward", 4 * STEPS)
    gradients(discrete, Mixing(), Y0, T, t_grad=False, **steady("dopri5"))
    last = fastode.last_stats()
    assert last is not None and (last.method, last.direction) == ("dopri5", "backward")


def test_a_solve_that_fails_leaves_its_account_open_to_read() -> None:
    with fastode.stats() as log, pytest.raises(fastode.TooManySteps):
        fastode.odeint(oscillator, Y0, T, options={**steady("dopri5")["options"], "max_total_steps": 3})
    assert log[0].n_steps == 3
    assert log[0].n_func == 1 + 6 * 3
