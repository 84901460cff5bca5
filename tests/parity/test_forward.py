"""Values, times of evaluation and numbers of steps of forward solves against torchdiffeq 0.2.5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import ADAMS, ADAPTIVE, FIXED, TORCHDIFFEQ, oscillator

import fastode

from .both import CLOSE, assert_close, reference, solve_both

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
SHAPES: dict[str, Any] = {"0-d": (), "1-d": (5,), "2-d": (3, 2), "3-d": (2, 1, 3), "tuple": ((3,), (), (2, 2))}
T = [0.0, 0.3, 0.35, 1.0, 2.5]


def state(shape: Any, dtype: torch.dtype) -> Any:
    generator = torch.Generator().manual_seed(7)
    if shape and isinstance(shape[0], tuple):
        return tuple(torch.randn(s, dtype=dtype, generator=generator) for s in shape)
    return torch.randn(shape, dtype=dtype, generator=generator)


def times(direction: str, dtype: torch.dtype) -> torch.Tensor:
    t = torch.tensor(T, dtype=dtype)
    return t if direction == "forward" else t.flip(0)


def arguments(method: str, dtype: torch.dtype) -> dict[str, Any]:
    """Tolerances far above the rounding of the dtype, so that rounding cannot decide a step."""
    double = dtype in (torch.float64, torch.complex128)
    if method in ADAPTIVE:
        rtol = 1e-6 if double else 1e-3
        return {"method": method, "rtol": rtol, "atol": rtol}
    order = {"max_order": 5} if method in ADAMS else {}  # the default order differs for explicit_adams
    # the corrector's stop must not be decided by rounding either
    return {"method": method, "rtol": 1e-4, "atol": 1e-4, "options": {"step_size": 0.07, **order}}


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", TORCHDIFFEQ)
def test_every_method_takes_the_same_steps_to_the_same_values(method: str, dtype: torch.dtype, direction: str) -> None:
    t = times(direction, torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32)
    solve_both(oscillator, state((5,), dtype), t, **arguments(method, dtype))


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "rk4", "implicit_adams"])
def test_every_shape_of_state_takes_the_same_steps(method: str, shape: str) -> None:
    if method not in TORCHDIFFEQ:
        pytest.skip("not built in")
    solve_both(
        oscillator,
        state(SHAPES[shape], torch.float64),
        times("forward", torch.float64),
        **arguments(method, torch.float64),
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    dtype=st.sampled_from(DTYPES),
    direction=st.sampled_from(["forward", "backward"]),
    method=st.sampled_from([*ADAPTIVE, *FIXED]),
    layout=st.sampled_from(["contiguous", "transposed", "strided", "expanded"]),
    t_dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_layout_shape_and_dtype_of_the_state_do_not_matter(
    shape: list[int], dtype: torch.dtype, direction: str, method: str, layout: str, t_dtype: torch.dtype
) -> None:
    # torchdiffeq computes 0-d states of single precision partly in double precision
    assume(shape or dtype in (torch.float64, torch.complex128))
    y0 = state(tuple(shape), dtype)
    if layout == "transposed":
        y0 = y0.mT if y0.ndim > 1 else y0
    elif layout == "strided" and shape:
        y0 = y0.repeat_interleave(2, dim=-1)[..., ::2]
    elif layout == "expanded":
        y0 = y0.unsqueeze(0).expand(2, *shape)
    solve_both(oscillator, y0, times(direction, t_dtype), **arguments(method, dtype))


TOLERANCES: dict[str, Any] = {
    "float": (1e-5, 1e-6),
    "0-d tensors": (torch.tensor(1e-5), torch.tensor(1e-6)),
    "one per element": (torch.tensor([1e-5, 1e-4, 1e-3, 1e-5, 1e-6]), torch.tensor([1e-6, 1e-3, 1e-5, 1e-7, 1e-5])),
    "float and tensor": (1e-5, torch.tensor([1e-6, 1e-3, 1e-5, 1e-7, 1e-5], dtype=torch.float64)),
}


@pytest.mark.parametrize("kind", list(TOLERANCES))
@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_kind_of_tolerance_takes_the_same_steps(method: str, kind: str) -> None:
    rtol, atol = TOLERANCES[kind]
    solve_both(
        oscillator, state((5,), torch.float64), times("forward", torch.float64), method=method, rtol=rtol, atol=atol
    )


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_one_tolerance_for_each_part_of_a_tuple_takes_the_same_steps(method: str) -> None:
    y0 = state(SHAPES["tuple"], torch.float64)
    solve_both(
        oscillator, y0, times("forward", torch.float64), method=method, rtol=(1e-5, 1e-4, 1e-6), atol=(1e-6, 1e-3, 1e-5)
    )


def largest(y: Any) -> torch.Tensor:
    return torch.stack([p.abs().max() for p in (y if isinstance(y, tuple) else (y,))]).max()


OPTIONS: dict[str, dict[str, Any]] = {
    "first_step": {"first_step": 0.05},
    "first_step as tensor": {"first_step": torch.tensor(0.05)},
    "min_step": {"min_step": 0.1},
    "max_step": {"max_step": 0.08},
    "min and max": {"min_step": 0.06, "max_step": 0.06},
    "step_t": {"step_t": torch.tensor([0.2, 0.9, 0.5])},
    "step_t outside": {"step_t": torch.tensor([-1.0, 0.0, 0.25, 2.5, 7.0])},
    "jump_t": {"jump_t": torch.tensor([0.41, 1.3])},
    "step_t and jump_t": {"step_t": torch.tensor([0.2, 1.1]), "jump_t": torch.tensor([0.4, 1.12])},
    "safety": {"safety": 0.7},
    "ifactor": {"ifactor": 1.5},
    "dfactor": {"dfactor": 0.6},
    "max_num_steps": {"max_num_steps": 1000},
    "dtype float32": {"dtype": torch.float32},
    "norm": {"norm": largest},
}


@pytest.mark.parametrize("shape", ["1-d", "tuple"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "fehlberg2"])
def test_every_option_of_adaptive_methods_has_the_same_effect(
    method: str, name: str, direction: str, shape: str
) -> None:
    y0 = state(SHAPES[shape], torch.float64)
    solve_both(
        oscillator, y0, times(direction, torch.float64), method=method, rtol=1e-4, atol=1e-5, options=OPTIONS[name]
    )


def uneven(func: Any, y0: Any, t: torch.Tensor) -> torch.Tensor:
    return t[0] + (t[-1] - t[0]) * torch.linspace(0, 1, 23, dtype=t.dtype) ** 1.5


GRIDS: dict[str, dict[str, Any]] = {
    "t itself": {},
    "step_size": {"step_size": 0.11},
    "step_size that divides": {"step_size": 0.125},
    "step_size as tensor": {"step_size": torch.tensor(0.11, dtype=torch.float64)},
    "grid_constructor": {"grid_constructor": uneven},
}


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")  # both say so on the widest grid
@pytest.mark.parametrize("perturb", [False, True], ids=["exact", "perturbed"])
@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("grid", list(GRIDS))
@pytest.mark.parametrize("method", [*FIXED, *ADAMS])
def test_every_option_of_fixed_grids_has_the_same_effect(
    method: str, grid: str, direction: str, interp: str, perturb: bool
) -> None:
    options = {**GRIDS[grid], "interp": interp, "perturb": perturb}
    if method in ADAMS:
        options["max_order"] = 5
    solve_both(
        oscillator, state((5,), torch.float64), times(direction, torch.float64), method=method, rtol=1e-4, atol=1e-4,
        options=options,
    )  # fmt: skip


@pytest.mark.parametrize("max_order", [4, 6, 9, 12])
@pytest.mark.parametrize("method", ADAMS)
def test_adams_methods_of_every_order_agree(method: str, max_order: int) -> None:
    options = {"step_size": 0.05, "max_order": max_order}
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    # order 11 amplifies rounding: compared after few steps and to fewer digits
    solve_both(
        oscillator, state((5,), torch.float64), t, method=method, rtol=1e-4, atol=1e-4, options=options, scale=100
    )


@pytest.mark.parametrize("method", TORCHDIFFEQ)
def test_one_requested_time_returns_the_initial_state(method: str) -> None:
    y0, t = state((5,), torch.float64), torch.tensor([0.7], dtype=torch.float64)
    assert torch.equal(fastode.odeint(oscillator, y0, t, method=method), y0[None])
    assert torch.equal(reference(oscillator, y0, t, method=method), y0[None])


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_field_sees_bit_identical_times_around_a_jump(method: str, direction: str) -> None:
    """Just before the end of a step, and just after a jump, in the state's precision."""
    t = times(direction, torch.float32)
    options = {"min_step": 0.25, "max_step": 0.25, "first_step": 0.25, "jump_t": torch.tensor([0.8, 1.6])}
    seen: list[list[float]] = []
    for solve in (fastode.odeint, reference):
        calls: list[float] = []

        def field(t: torch.Tensor, y: torch.Tensor, calls: list[float] = calls) -> torch.Tensor:
            calls.append(float(t))
            return -y

        solve(field, torch.ones(2), t, method=method, options=options)
        seen.append(calls)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("perturb", [False, True], ids=["exact", "perturbed"])
@pytest.mark.parametrize("method", [*FIXED, *ADAMS])
def test_the_field_sees_bit_identical_times_on_a_grid(method: str, perturb: bool, direction: str) -> None:
    t = times(direction, torch.float64)
    options: dict[str, Any] = {"perturb": perturb, "step_size": 0.25}
    if method in ADAMS:
        options["max_order"] = 5
    seen: list[list[float]] = []
    for solve in (fastode.odeint, reference):
        calls: list[float] = []

        def field(t: torch.Tensor, y: torch.Tensor, calls: list[float] = calls) -> torch.Tensor:
            calls.append(float(t))
            return -y

        solve(field, torch.ones(2, dtype=torch.float64), t, method=method, rtol=1e-3, atol=1e-3, options=options)
        seen.append(calls)
    assert len(seen[0]) == len(seen[1])
    # interior stages are t0 + c dt in one rounding less or more
    assert max(abs(a - b) for a, b in zip(*seen, strict=True)) <= 2e-15


@pytest.mark.filterwarnings("ignore:The following arguments have no effect")
@pytest.mark.parametrize("solver", ["LSODA", "RK45", "BDF"])
def test_scipy_methods_agree(solver: str) -> None:
    pytest.importorskip("scipy", reason="the method is SciPy's")
    torch.set_default_dtype(torch.float64)  # torchdiffeq rounds the times of LSODA to the default dtype
    t = times("forward", torch.float64)
    kwargs = {"method": "scipy_solver", "rtol": 1e-6, "atol": 1e-6, "options": {"solver": solver}}
    y0 = state((5,), torch.float64)
    assert_close(fastode.odeint(oscillator, y0, t, **kwargs), reference(oscillator, y0, t, **kwargs))


def test_float32_times_reach_the_field_as_float32() -> None:
    kinds: set[torch.dtype] = set()

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        kinds.add(t.dtype)
        assert t.ndim == 0
        return -y

    fastode.odeint(field, torch.ones(3), torch.tensor([0.0, 1.0], dtype=torch.float64))
    fastode.odeint(field, torch.ones(3), torch.tensor([0.0, 1.0], dtype=torch.float64), method="rk4")
    assert kinds == {torch.float32}


def test_default_arguments_agree() -> None:
    y0, t = state((5,), torch.float64), times("forward", torch.float64)
    torch.testing.assert_close(
        fastode.odeint(oscillator, y0, t), reference(oscillator, y0, t), rtol=CLOSE[torch.float64], atol=1e-12
    )
