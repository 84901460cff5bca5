"""What a solve keeps for its gradient, and that nothing outlives it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastode

from .comparing import STEADY, Mixing, backsolve, discrete, steady

WAYS: dict[str, Callable[..., Any]] = {"autograd": fastode.odeint, "discrete": discrete, "backsolve": backsolve}
Y0 = torch.linspace(-0.5, 0.9, 300, dtype=torch.float64)


def saved_elements(way: str, steps: int) -> int:
    """Elements of distinct tensors of the state's size that autograd holds after a forward solve."""
    held: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        if x.numel() >= Y0.numel():
            held[x.untyped_storage().data_ptr()] = x
        return x

    t = torch.tensor([0.0, steps * 0.25], dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = WAYS[way](Mixing(300), Y0.clone().requires_grad_(), t, options=STEADY)
    assert y.requires_grad
    return sum(x.numel() for x in held.values())


def test_backsolve_saves_the_solution_however_many_steps_it_took() -> None:
    assert saved_elements("backsolve", 4) == saved_elements("backsolve", 40)


def test_a_tape_grows_by_every_stage() -> None:
    growth = (saved_elements("autograd", 40) - saved_elements("autograd", 4)) / 36 / Y0.numel()
    # of each of dopri5's six evaluations at least the value of the tanh
    assert growth >= 6


@pytest.mark.parametrize(
    ("method", "slopes"), [("dopri5", 0), ("tsit5", 0), ("bosh3", 0), ("adaptive_heun", 1), ("rk4", 0), ("gl4", 0)]
)
def test_the_discrete_gradient_keeps_one_state_a_step(method: str, slopes: int) -> None:
    """And the first slope where a method reuses a last stage that is not at the new state."""
    t = torch.tensor([0.0, 2.5], dtype=torch.float64)
    y = discrete(Mixing(300), Y0.clone().requires_grad_(), t, **steady(method))
    steps = y.grad_fn.steps
    assert len(steps) == 10
    # the states before the first step and between any two; those that a step gets are those it made
    kept = {p.untyped_storage().data_ptr() for step in steps for p in step.y}
    assert len(kept) == 10
    assert sum(step.k_first is not None for step in steps) == 10 * slopes


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def solve(way: str, method: str, func: Any, backward: bool, structured: bool) -> list[weakref.ref[Any]]:
    """Solve, go backwards if asked to, and return weak references to what took part."""
    y0 = Y0[:3].clone().requires_grad_()
    w = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64, requires_grad=True)
    if structured:

        def field(t: Tensor, y: dict[str, Tensor], w: Tensor) -> dict[str, Tensor]:
            return {"y": w * func(t, y["y"])}

        y = WAYS[way](field, {"y": y0}, t, w, method=method, **({} if way == "autograd" else {
            "adjoint_params": tuple(func.parameters())}))["y"]  # fmt: skip
    else:
        y = WAYS[way](func, y0, t, method=method)
    if backward:
        y.sum().backward()
    return [weakref.ref(x) for x in (y0, t, y, w)]


@pytest.mark.parametrize("structured", [False, True], ids=["tensor", "dict and args"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward only", "with backward"])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "gl4"])
@pytest.mark.parametrize("way", WAYS)
def test_everything_dies_with_the_last_reference_to_the_solution(
    way: str, method: str, backward: bool, structured: bool, no_collector: None
) -> None:
    func = Mixing()
    alive = [weakref.ref(func), *solve(way, method, func, backward, structured)]
    del func
    assert [ref() is None for ref in alive] == [True] * len(alive)


@pytest.mark.parametrize("kind", ["no_grad", "event", "dense", "rejected"])
def test_no_cycle_is_left_after_other_kinds_of_solve(kind: str, no_collector: None) -> None:
    func = Mixing()
    alive = weakref.ref(func)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    if kind == "no_grad":
        with torch.no_grad():
            fastode.odeint(func, Y0[:3], t)
    elif kind == "event":
        fastode.odeint_event(func, Y0[:3], t[0], event_fn=lambda t, y: t - 0.5 + 0 * y.sum())
    elif kind == "dense":
        fastode.odeint_dense(func, Y0[:3], 0.0, 1.0)(0.3)
    else:
        with pytest.raises(fastode.SolverError):
            fastode.odeint(func, Y0[:3], t, options={"max_total_steps": 1, "first_step": 0.1})
        # the traceback that pytest keeps refers to the frames, which refer to the field
        gc.collect()
    del func
    assert alive() is None


@pytest.mark.parametrize("way", WAYS)
def test_the_collector_finds_nothing_of_ours(way: str, no_collector: None) -> None:
    func = Mixing()
    solve(way, "dopri5", func, True, False)  # whatever is made once, at first use
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        solve(way, "dopri5", func, True, False)
        gc.collect()
        found = [x for x in gc.garbage if isinstance(x, Tensor) or type(x).__module__.startswith("fastode")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not found
