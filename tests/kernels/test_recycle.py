"""Buffers that are used again: only those that nobody else holds."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastode
from fastode.kernels.recycle import Spares, TimeBuffer

from .conftest import EngineUnderTest

HOLD: dict[str, Callable[[Tensor], Any]] = {
    "itself": lambda x: x,
    "a-view": lambda x: x[:2],
    "a-detached-alias": lambda x: x.detach(),
    "its-storage": lambda x: x.untyped_storage(),
    "a-numpy-array": lambda x: x.numpy(),
    "a-tape": lambda x: (x * torch.ones(3, requires_grad=True)).sum(),
}


def given_back(spares: Spares) -> int:
    """The address of a buffer that was taken and given back at once."""
    x = spares.take()
    address = x.data_ptr()
    spares.give(x)
    return address


def test_a_buffer_that_nobody_holds_is_handed_out_again() -> None:
    spares = Spares(torch.zeros(3))
    first = given_back(spares)
    x = spares.take()
    assert x.data_ptr() == first


@pytest.mark.parametrize("hold", HOLD.values(), ids=HOLD.keys())
def test_a_buffer_that_somebody_holds_is_not_handed_out(hold: Callable[[Tensor], Any]) -> None:
    spares = Spares(torch.zeros(3))
    x = spares.take()
    address, held = x.data_ptr(), hold(x)
    spares.give(x)
    del x
    y = spares.take()
    assert y.data_ptr() != address
    assert held is not None


def test_a_buffer_that_requires_grad_is_not_handed_out_again() -> None:
    spares = Spares(torch.zeros(3))
    x = spares.take()
    x.requires_grad_()
    spares.give(x)
    del x
    assert not spares.take().requires_grad


def test_a_buffer_is_not_lent_to_two_at_once() -> None:
    spares = Spares(torch.zeros(3))
    a, b = spares.take(), spares.take()
    spares.give(a)
    spares.give(b)
    del a, b
    taken = [spares.take() for _ in range(3)]
    assert len({x.data_ptr() for x in taken}) == 3


def test_buffers_are_contiguous_whatever_they_are_like() -> None:
    like = torch.zeros(3, 4).t().requires_grad_()
    x = Spares(like).take()
    assert x.is_contiguous() and x.shape == (4, 3) and not x.requires_grad


def test_times_are_used_again_only_when_no_view_of_them_is_held() -> None:
    clock = TimeBuffer(3, torch.float64)
    base, views = clock.take()
    address = base.data_ptr()
    del base, views
    base, views = clock.take()
    assert base.data_ptr() == address
    held = views[1]
    del base, views
    base, _ = clock.take()
    assert base.data_ptr() != address and held.shape == ()


def test_times_that_require_grad_in_place_are_not_handed_out_again() -> None:
    clock = TimeBuffer(2, torch.float64)
    base, views = clock.take()
    with torch.enable_grad():
        base.requires_grad_()
    del base, views
    base, views = clock.take()
    assert not base.requires_grad and not any(v.requires_grad for v in views)


SOLVES: dict[str, dict[str, Any]] = {
    "adaptive": {"method": "dopri5"},
    "not-ssal": {"method": "adaptive_heun"},
    "callable-norm": {"method": "bosh3", "options": {"norm": lambda y: y[0].abs().max()}},
    "grid": {"method": "rk4", "options": {"step_size": 0.05}},
    "cubic": {"method": "heun3", "options": {"step_size": 0.07, "interp": "cubic"}},
    "adams": {"method": "implicit_adams", "options": {"step_size": 0.05}},
}
each_solve = pytest.mark.parametrize("arguments", SOLVES.values(), ids=SOLVES.keys())


@pytest.mark.parametrize("keep", ["itself", "a-view", "a-detached-alias"])
@each_solve
def test_parts_of_a_state_that_the_field_keeps_stay_as_they_were(
    engine: EngineUnderTest, arguments: dict[str, Any], keep: str
) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if len(kept) % 3 == 0:  # some are kept and some are free
            kept.extend((HOLD[keep](p), HOLD[keep](p).clone()) for p in y)
        else:
            kept.append((t, t.clone()))
        return torch.cos(y[1][:2]).expand(3, 2) * y[0], -y[1] + t

    y0 = (torch.ones(3, 2, device=engine.device), torch.ones(5, device=engine.device))
    options = {**arguments.get("options", {}), "engine": engine.name}
    t = torch.tensor([0.0, 0.33, 1.0], device=engine.device)
    with torch.no_grad():
        fastode.odeint(field, y0, t, rtol=1e-4, atol=1e-4, **{**arguments, "options": options})
    assert len(kept) > 20
    assert all(torch.equal(seen, copy) for seen, copy in kept)


@each_solve
def test_slopes_that_are_views_of_the_state_or_of_each_other_are_read_before_they_are_written(
    engine: EngineUnderTest, arguments: dict[str, Any]
) -> None:
    def views(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], y[0]

    def copies(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1].clone(), y[0].clone()

    y0 = (torch.ones(4, device=engine.device), torch.arange(4.0, device=engine.device))
    options = {**arguments.get("options", {}), "engine": engine.name}
    t = torch.tensor([0.0, 0.33, 1.0], device=engine.device)
    with torch.no_grad():
        found, expected = (
            fastode.odeint(f, y0, t, rtol=1e-4, atol=1e-4, **{**arguments, "options": options}) for f in (views, copies)
        )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("method", ["euler", "rk4", "explicit_adams", "dopri5"])
def test_slopes_are_forgotten_after_a_few_steps(engine: EngineUnderTest, method: str) -> None:
    slopes: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        alive.append(sum(k() is not None for k in slopes))
        slope = -y
        slopes.append(weakref.ref(slope))
        return slope

    options = {"engine": engine.name}
    if method == "dopri5":
        options["max_step"] = 0.02  # type: ignore[assignment]
    gc.disable()  # a count of owners, not of cycles
    try:
        with torch.no_grad():
            y0, t = torch.ones(4, device=engine.device), torch.linspace(0, 1, 51, device=engine.device)
            fastode.odeint(field, y0, t, method=method, options=options, rtol=1e-2, atol=1e-2)
    finally:
        gc.enable()
    assert len(alive) >= 50
    assert max(alive) <= 14  # the stages of one step, or the history of an Adams method and the stages of its start


def test_what_a_thread_keeps_for_all_solves_is_not_marked_by_a_mode() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return t * y

    y0 = torch.ones(2)
    times = torch.tensor([0.0, 1.0])
    found: list[Tensor] = []

    def in_a_fresh_thread() -> None:
        with torch.inference_mode():
            fastode.odeint(field, y0, times)
        found.append(fastode.odeint(field, y0.clone().requires_grad_(), times)[-1])

    thread = threading.Thread(target=in_a_fresh_thread)
    thread.start()
    thread.join()
    found[0].sum().backward()
    torch.testing.assert_close(found[0].detach(), torch.full((2,), 1.6487212), rtol=1e-5, atol=1e-5)


def test_a_solve_inside_a_field_leaves_the_times_of_the_outer_one_alone() -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def inner(t: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def outer(t: Tensor, y: Tensor) -> Tensor:
        before = float(t)
        fastode.odeint(inner, y, times)
        assert float(t) == before
        return t.expand_as(y)

    y = fastode.odeint(outer, torch.zeros(3, dtype=torch.float64), times)
    torch.testing.assert_close(y[-1], torch.full((3,), 0.5, dtype=torch.float64))
