"""``odeint_dense``: the solution as a function of time, for every method, direction, state and shape of times."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from problems import ADAPTIVE_ALL, GRID, Net, oscillator
from torch import Tensor
from torch.autograd import gradcheck

import fastode
from fastode.errors import InvalidArgument

Y0 = torch.tensor([[0.2, -0.4, 1.1], [0.5, 0.0, -0.7]], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.11, 0.5, 0.77, 1.31, 1.5], dtype=torch.float64)
SPANS = {"forward": TIMES, "reverse": -TIMES}
Pair = namedtuple("Pair", "q p")


def arguments(method: str) -> dict[str, Any]:
    if method in ADAPTIVE_ALL:
        return {"method": method, "rtol": 1e-5, "atol": 1e-5}
    if method.endswith("adams"):
        return {"method": method, "rtol": 1e-4, "atol": 1e-4, "options": {"step_size": 0.1, "max_order": 4}}
    return {"method": method, "options": {"step_size": 0.1}}


@pytest.mark.parametrize("direction", SPANS)
@pytest.mark.parametrize("method", [*ADAPTIVE_ALL, *GRID])
def test_a_dense_solution_takes_the_values_of_odeint_at_the_same_times(method: str, direction: str) -> None:
    t = SPANS[direction]
    expected = fastode.odeint(oscillator, Y0, t, **arguments(method))
    solution = fastode.odeint_dense(oscillator, Y0, t[0], t[-1], **arguments(method))
    # the same polynomials, evaluated by powers of the fraction instead of weights
    torch.testing.assert_close(solution(t), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", ["rk4", "midpoint", "gl4"])
def test_a_grid_method_joins_its_points_by_cubics_on_request(method: str) -> None:
    t, options = TIMES, {"step_size": 0.1, "interp": "cubic"}
    expected = fastode.odeint(oscillator, Y0, t, method=method, options=options)
    solution = fastode.odeint_dense(oscillator, Y0, t[0], t[-1], method=method, options=options)
    torch.testing.assert_close(solution(t), expected, rtol=0, atol=1e-13)
    linear = fastode.odeint_dense(oscillator, Y0, t[0], t[-1], method=method, options={"step_size": 0.1})
    # a chord of a curve, wrong by up to h^2 / 8 of its second derivative
    assert float((linear(0.25) - solution(0.25)).abs().max()) > 1e-5


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_both_engines_give_the_same_solution(engine: str) -> None:
    if engine == "native":
        pytest.importorskip("fastode._native", reason="the native module is not built")
    solution = fastode.odeint_dense(oscillator, Y0, 0.0, 1.5, options={"engine": engine})
    torch.testing.assert_close(solution(TIMES), fastode.odeint(oscillator, Y0, TIMES), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (2, 1, 3), (0,)], ids=str)
@pytest.mark.parametrize("state", [(), (3,), (2, 3)], ids=["0-d", "1-d", "2-d"])
def test_times_of_any_shape_lead_the_shape_of_the_state(shape: tuple[int, ...], state: tuple[int, ...]) -> None:
    y0 = torch.full(state, 0.3, dtype=torch.float64)
    solution = fastode.odeint_dense(oscillator, y0, 0.0, 1.5, method="bosh3", rtol=1e-3, atol=1e-3)
    t = 1.5 * torch.rand(shape, dtype=torch.float64)
    values = solution(t)
    assert values.shape == (*shape, *state)
    for index, s in enumerate(t.reshape(-1)):
        assert torch.equal(values.reshape(-1, *state)[index], solution(s))


@pytest.mark.parametrize("order", ["rising", "falling", "mixed", "repeated"])
def test_times_may_come_in_any_order(order: str) -> None:
    solution = fastode.odeint_dense(oscillator, Y0, 0.0, 1.5)
    index = {"rising": [0, 1, 2, 3], "falling": [3, 2, 1, 0], "mixed": [2, 0, 3, 1], "repeated": [2, 2, 0, 2]}[order]
    assert torch.equal(solution(TIMES[index]), solution(TIMES)[index])


@pytest.mark.parametrize("t", [0.77, torch.tensor(0.77, dtype=torch.float64)], ids=["number", "tensor"])
def test_one_time_gives_one_state(t: Any) -> None:
    solution = fastode.odeint_dense(oscillator, Y0, 0.0, 1.5)
    assert solution(t).shape == Y0.shape
    assert torch.equal(solution(t), solution(TIMES)[3])


def test_numbers_as_ends_are_double_even_with_a_single_precision_state() -> None:
    solution = fastode.odeint_dense(oscillator, Y0.float(), 0, 1.5, rtol=1e-4, atol=1e-4)
    assert solution(1).dtype == torch.float32
    assert solution.ends[0] == 0.0 and solution.ends[-1] >= 1.5


def test_the_ends_are_the_ends_of_the_steps() -> None:
    with fastode.stats() as log:
        solution = fastode.odeint_dense(
            oscillator, Y0, 0.0, 1.0, options={"first_step": 0.25, "min_step": 0.25, "max_step": 0.25}
        )
    assert solution.ends == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert log[0].n_accepted == 4


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("kind", ["tuple", "dict", "nested", "named"])
def test_a_structured_state_comes_back_in_its_structure(kind: str, method: str) -> None:
    a, b = Y0[0], torch.tensor(0.4, dtype=torch.float64)
    y0 = {"tuple": (a, b), "dict": {"a": a, "b": b}, "nested": [{"x": (a,)}, b], "named": Pair(a, b)}[kind]

    def parts(y: Any) -> tuple[Tensor, Tensor]:
        if isinstance(y, dict):
            return y["a"], y["b"]
        return (y[0]["x"][0], y[1]) if kind == "nested" else (y[0], y[1])

    def field(t: Tensor, y: Any) -> Any:
        f, g = (oscillator(t, p) for p in parts(y))
        return {"tuple": (f, g), "dict": {"b": g, "a": f}, "nested": [{"x": (f,)}, g], "named": Pair(f, g)}[kind]

    values = fastode.odeint_dense(field, y0, 0.0, 1.5, **arguments(method))(TIMES[:4].reshape(2, 2))
    assert type(values) is type(y0)
    found = parts(values)
    assert found[0].shape == (2, 2, 3) and found[1].shape == (2, 2)
    expected = parts(fastode.odeint(field, y0, torch.cat([TIMES[:4], TIMES[-1:]]), **arguments(method)))
    for x, z in zip(found, expected, strict=True):
        torch.testing.assert_close(x.reshape(4, *x.shape[2:]), z[:4], rtol=0, atol=1e-12)


def test_a_complex_state_has_a_complex_solution() -> None:
    y0 = torch.tensor([0.4 + 0.3j, -0.2j], dtype=torch.complex128)
    solution = fastode.odeint_dense(oscillator, y0, 0.0, 1.5)
    torch.testing.assert_close(solution(TIMES), fastode.odeint(oscillator, y0, TIMES), rtol=0, atol=1e-13)


@pytest.mark.parametrize("direction", SPANS)
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "bosh3", "rk4", "gl4"])
def test_gradients_reach_the_inputs_and_the_times_asked_for(method: str, direction: str) -> None:
    sign = 1.0 if direction == "forward" else -1.0
    steady = {"first_step": 0.25, "min_step": 0.25, "max_step": 0.25}
    options = steady if method in ADAPTIVE_ALL else {"step_size": 0.25, "interp": "cubic"}

    def solve(y0: Tensor, w: Tensor, ends: Tensor, t: Tensor) -> Tensor:
        def field(s: Tensor, y: Tensor, w: Tensor) -> Tensor:
            return torch.tanh(w * y + s)

        return fastode.odeint_dense(field, y0, ends[0], ends[1], w, method=method, options=options)(t)

    inputs = (
        torch.tensor([0.3, -0.5], dtype=torch.float64),
        torch.tensor([0.8, 1.1], dtype=torch.float64),
        sign * torch.tensor([0.1, 1.37], dtype=torch.float64),
        sign * torch.tensor([[0.17, 0.9], [0.44, 1.362]], dtype=torch.float64),
    )
    assert gradcheck(solve, tuple(x.requires_grad_() for x in inputs))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_gradients_to_parameters_equal_those_of_odeint(method: str) -> None:
    func = Net()
    values = [fastode.odeint_dense(func, Y0, 0.0, 1.5, **arguments(method))(TIMES),
              fastode.odeint(func, Y0, TIMES, **arguments(method))]  # fmt: skip
    ours, theirs = (torch.autograd.grad(v.square().sum(), list(func.parameters())) for v in values)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_the_derivative_of_the_solution_is_the_field() -> None:
    solution = fastode.odeint_dense(oscillator, Y0[0], 0.0, 1.5, rtol=1e-9, atol=1e-9)
    t = torch.tensor([0.1, 0.6, 1.2], dtype=torch.float64, requires_grad=True)
    y = solution(t)
    slopes = torch.stack([torch.autograd.grad(y[:, i].sum(), t, retain_graph=True)[0] for i in range(3)], 1)
    field = torch.cos(y) + torch.sin(3 * t)[:, None]
    torch.testing.assert_close(slopes, field, rtol=0, atol=1e-5)


@pytest.mark.parametrize("t", [-1e-9, 1.50001, [0.3, 2.0], float("nan")], ids=str)
@pytest.mark.parametrize("direction", [1.0, -1.0], ids=["forward", "reverse"])
def test_a_time_beyond_the_interval_is_refused_with_the_interval(t: Any, direction: float) -> None:
    options = {"max_step": 0.25, "first_step": 0.25, "min_step": 0.25}
    solution = fastode.odeint_dense(oscillator, Y0, 0.0, direction * 1.5, options=options)
    times = direction * torch.tensor(t, dtype=torch.float64)
    with pytest.raises(InvalidArgument, match=r"fails `t0 <= t <= t1`: the solution spans 0.0 to") as caught:
        solution(times)
    assert str(direction * 1.5) in str(caught.value)


def test_an_external_method_has_no_dense_output() -> None:
    with pytest.raises(InvalidArgument, match="has no dense output; use an adaptive or fixed-grid method"):
        fastode.odeint_dense(oscillator, Y0, 0.0, 1.5, method="scipy_solver")


def test_equal_ends_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be strictly increasing or decreasing"):
        fastode.odeint_dense(oscillator, Y0, 1.0, 1.0)


def test_a_solution_survives_further_solves() -> None:
    """Its polynomials are in memory of its own, which no later step writes."""
    with torch.no_grad():
        solution = fastode.odeint_dense(oscillator, Y0, 0.0, 1.5)
        before = solution(TIMES)
        fastode.odeint_dense(oscillator, -Y0, 0.0, 1.5)
        assert torch.equal(solution(TIMES), before)
