"""torchdiffeq's solver classes: read from the table, made by hand, derived from, and written into the table."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from problems import Net, Recorder, oscillator
from torch import Tensor

import fastode
from fastode.compat.modules import modules
from fastode.errors import UnsupportedInput
from fastode.methods import methods

torchdiffeq = pytest.importorskip("torchdiffeq", reason="values are compared with torchdiffeq's")

D = torch.float64
Y = torch.tensor([[0.3, -1.2, 2.0], [0.1, 0.0, -0.7]], dtype=D)
T = torch.tensor([0.0, 0.4, 1.0], dtype=D)
OURS = modules()["torchdiffeq._impl.odeint"]
SOLVERS = OURS.SOLVERS
NAMES = {
    "dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun", "euler", "midpoint", "heun2", "heun3", "rk4",
    "explicit_adams", "implicit_adams", "fixed_adams", "scipy_solver", "implicit_euler", "implicit_midpoint",
    "trapezoid", "radauIIA3", "radauIIA5", "gl4", "gl6", "sdirk2", "trbdf2",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _table_as_it_was() -> Iterator[None]:
    yield
    SOLVERS.reset()


def module(which: str, name: str) -> Any:
    full = f"torchdiffeq._impl.{name}"
    return modules()[full] if which == "ours" else importlib.import_module(full)


def test_the_table_lists_every_method_of_torchdiffeqs_master() -> None:
    assert set(SOLVERS) == NAMES == set(methods())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_solver_made_by_hand_takes_the_methods_steps(name: str) -> None:
    if name == "scipy_solver":
        pytest.importorskip("scipy")
    one, two = Recorder(oscillator), Recorder(oscillator)
    ours = SOLVERS[name](func=one, y0=Y, rtol=1e-6, atol=1e-8).integrate(T)
    assert torch.equal(ours, fastode.odeint(two, Y, T, method=name, rtol=1e-6, atol=1e-8))
    assert one.times == two.times


def test_an_implicit_solver_made_by_hand_honours_its_iterations() -> None:
    with pytest.raises(ValueError, match="max_iters"):
        SOLVERS["trapezoid"](func=oscillator, y0=Y, max_iters=0).integrate(T)


def test_a_class_derived_from_an_implicit_one_is_that_method() -> None:
    class Mine(SOLVERS["gl4"]):  # type: ignore[misc]
        pass

    SOLVERS["mine"] = Mine
    assert torch.equal(fastode.odeint(oscillator, Y, T, method="mine"), fastode.odeint(oscillator, Y, T, method="gl4"))


def heun_of(which: str, returns_slope: bool) -> Any:
    """Heun's method written by a user of torchdiffeq."""

    class Mine(module(which, "solvers").FixedGridODESolver):  # type: ignore[misc]
        order = 2

        def _step_func(self, func: Any, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
            f0 = func(t0, y0)
            f1 = func(t1, y0 + dt * f0)
            change = 0.5 * dt * (f0 + f1)
            return (change, f0) if returns_slope else change

    return Mine


@pytest.mark.parametrize("t", [T, T.flip(0)], ids=["forward", "reverse"])
@pytest.mark.parametrize("options", [{"step_size": 0.3}, {"step_size": 0.3, "interp": "cubic"}, {}], ids=str)
def test_a_grid_solver_written_into_the_table_gives_what_it_gives_in_torchdiffeq(t: Tensor, options: Any) -> None:
    SOLVERS["mine"] = heun_of("ours", True)
    theirs = module("theirs", "odeint").SOLVERS
    theirs["mine"] = heun_of("theirs", True)
    try:
        expected = torchdiffeq.odeint(oscillator, Y, t, method="mine", options=dict(options))
    finally:
        del theirs["mine"]
    ours = fastode.odeint(oscillator, Y, t, method="mine", options=dict(options))
    torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("interp", ["linear", "cubic"])
def test_a_step_func_may_return_the_change_alone(interp: str) -> None:
    options = {"step_size": 0.3, "interp": interp}
    SOLVERS["pair"], SOLVERS["alone"] = heun_of("ours", True), heun_of("ours", False)
    pair, alone = (fastode.odeint(oscillator, Y, T, method=m, options=dict(options)) for m in ("pair", "alone"))
    torch.testing.assert_close(alone, pair, rtol=1e-14, atol=1e-14)


def test_a_grid_solver_of_the_user_trains_and_takes_tuples() -> None:
    SOLVERS["mine"] = heun_of("ours", True)
    net = Net()
    solution = fastode.odeint_adjoint(net, Y, T, method="mine")
    gradients = torch.autograd.grad(solution.square().sum(), list(net.parameters()))
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients)
    pair = fastode.odeint(oscillator, (Y, Y[0]), T, method="mine")
    assert torch.equal(pair[0], fastode.odeint(oscillator, Y, T, method="mine"))
    assert pair[1].shape == (3, 3)


def pair_of(which: str) -> Any:
    """An embedded pair of a user: Heun's method with Euler's as its estimate."""
    common = module(which, "rk_common")

    class Mine(common.RKAdaptiveStepsizeODESolver):  # type: ignore[misc,name-defined]
        order = 2
        tableau = common._ButcherTableau(
            alpha=torch.tensor([1.0], dtype=D),
            beta=[torch.tensor([1.0], dtype=D)],
            c_sol=torch.tensor([0.5, 0.5], dtype=D),
            c_error=torch.tensor([0.5, -0.5], dtype=D),
        )
        mid = torch.tensor([0.5, 0.0], dtype=D)

    return Mine


@pytest.mark.parametrize("t", [T, T.flip(0)], ids=["forward", "reverse"])
def test_a_pair_with_a_tableau_of_its_own_takes_torchdiffeqs_steps(t: Tensor) -> None:
    one, two = Recorder(oscillator), Recorder(oscillator)
    SOLVERS["mine"] = pair_of("ours")
    theirs = module("theirs", "odeint").SOLVERS
    theirs["mine"] = pair_of("theirs")
    try:
        expected = torchdiffeq.odeint(two, Y, t, method="mine", rtol=1e-4, atol=1e-6)
    finally:
        del theirs["mine"]
    ours = fastode.odeint(one, Y, t, method="mine", rtol=1e-4, atol=1e-6)
    assert len(one.times) == len(two.times)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_a_pair_that_overrides_the_loop_is_refused_with_what_to_do() -> None:
    class Mine(pair_of("ours")):  # type: ignore[misc]
        def _adaptive_step(self, rk_state: Any) -> Any:
            return rk_state

    with pytest.raises(UnsupportedInput, match=r"Mine overrides `_adaptive_step`.*define `_advance`"):
        SOLVERS["mine"] = Mine


def advancing_of(which: str) -> Any:
    """A solver with a loop of its own: Euler steps of 0.05."""

    class Mine(module(which, "solvers").AdaptiveStepsizeODESolver):  # type: ignore[misc]
        def __init__(self, func: Any, y0: Tensor, rtol: Any, atol: Any, **kwargs: Any) -> None:
            super().__init__(dtype=y0.dtype, y0=y0, **kwargs)
            self.func = func

        @classmethod
        def valid_callbacks(cls) -> set[str]:
            return set()

        def _before_integrate(self, t: Tensor) -> None:
            self.t, self.y = t[0], self.y0

        def _advance(self, next_t: Tensor) -> Tensor:
            while self.t < next_t:
                dt = torch.minimum(next_t - self.t, torch.tensor(0.05, dtype=D))
                self.y = self.y + dt * self.func(self.t, self.y)
                self.t = self.t + dt
            return self.y

    return Mine


@pytest.mark.parametrize("t", [T, T.flip(0)], ids=["forward", "reverse"])
def test_a_solver_that_advances_by_itself_gives_what_it_gives_in_torchdiffeq(t: Tensor) -> None:
    SOLVERS["mine"] = advancing_of("ours")
    theirs = module("theirs", "odeint").SOLVERS
    theirs["mine"] = advancing_of("theirs")
    try:
        expected = torchdiffeq.odeint(oscillator, Y, t, method="mine")
    finally:
        del theirs["mine"]
    torch.testing.assert_close(fastode.odeint(oscillator, Y, t, method="mine"), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("how", ["setitem", "update", "setdefault"])
def test_every_way_to_write_into_the_table_is_seen(how: str) -> None:
    kind = heun_of("ours", True)
    if how == "setitem":
        SOLVERS["mine"] = kind
    elif how == "update":
        SOLVERS.update({"mine": kind})
    else:
        SOLVERS.setdefault("mine", kind)
    assert fastode.odeint(oscillator, Y, T, method="mine").shape == (3, 2, 3)
    assert SOLVERS.pop("mine") is kind
    with pytest.raises(ValueError, match='Invalid method "mine"'):
        fastode.odeint(oscillator, Y, T, method="mine")


def test_a_class_written_over_a_built_in_name_is_used_until_it_is_deleted() -> None:
    before = fastode.odeint(oscillator, Y, T, method="euler")
    SOLVERS["euler"] = heun_of("ours", True)
    assert not torch.equal(fastode.odeint(oscillator, Y, T, method="euler"), before)
    del SOLVERS["euler"]
    assert torch.equal(fastode.odeint(oscillator, Y, T, method="euler"), before)


@pytest.mark.parametrize("name", ["Euler", "RK4"])
def test_steps_of_a_fixed_grid_class_can_be_taken_by_hand(name: str) -> None:
    changes = []
    for which in ("theirs", "ours"):
        kind, misc = getattr(module(which, "fixed_grid"), name), module(which, "misc")
        solver = kind(func=misc._PerturbFunc(oscillator), y0=Y, rtol=1e-3, atol=1e-3)
        changes.append(solver._step_func(solver.func, T[0], T[1], T[1], Y))
    for theirs, ours in zip(*changes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
