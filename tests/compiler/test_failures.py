"""What is wrong, or not for the native engine, ends for a compiled field as it does for the function itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.errors import FieldError, InvalidArgument, NonFiniteState, StepSizeUnderflow, TooManySteps

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


def decay(t: Tensor, y: Any) -> Any:
    return -y * torch.cos(t)


def solve(func: Callable[..., Any], y0: Any = None, t: Any = None, *args: Any, **how: Any) -> Any:
    return fastode.odeint(
        func, torch.ones(3, 2) if y0 is None else y0, torch.tensor([0.0, 0.3, 1.0]) if t is None else t, *args, **how
    )


def error_of(func: Callable[..., Any], *given: Any, **how: Any) -> Exception:
    """The exception that a solve ends with."""
    with pytest.raises(Exception) as caught:
        solve(func, *given, **how)
    return caught.value


def assert_same_error(func: Callable[..., Any], kind: type[Exception], says: str, *given: Any, **how: Any) -> None:
    """Compiled and not, a solve ends with the same class of exception, and both say what it is about."""
    for error in (error_of(func, *given, **how), error_of(fastode.compile(func), *given, **how)):
        assert type(error) is kind
        assert says in str(error)


@pytest.mark.parametrize("first_step", [None, 0.1], ids=["heuristic", "given"])
@pytest.mark.parametrize("number", [NAN, INF], ids=str)
def test_a_state_that_is_not_finite_is_refused(number, first_step):
    y0 = torch.ones(3, 2)
    y0[1, 1] = number
    assert_same_error(decay, NonFiniteState, "state `y`", y0, options={"first_step": first_step})


def test_a_solution_that_blows_up_underflows_the_step():
    assert_same_error(lambda t, y: y**2, StepSizeUnderflow, "at t=1", None, torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("start", [-1.0, 0.5], ids=["at-once", "later"])
def test_a_field_that_becomes_nan_underflows_the_step(start):
    func = lambda t, y: torch.sqrt(start - t) * y  # noqa: E731
    assert_same_error(func, StepSizeUnderflow, "may return NaN there")


def test_tolerances_of_zero_underflow_the_step():
    assert_same_error(decay, StepSizeUnderflow, "underflow", rtol=0.0, atol=0.0)


def test_a_state_that_overflows_under_a_least_step_is_refused():
    options = {"min_step": 0.1, "first_step": 0.1}
    func = lambda t, y: 1e200 * y**3  # noqa: E731
    assert_same_error(func, NonFiniteState, "state `y`", torch.full((2, 1), 1e60), options=options)


def test_a_grid_carries_nan_on():
    y0 = torch.tensor([[1.0, NAN]])
    for func in (decay, fastode.compile(decay)):
        y = solve(func, y0, method="rk4")
        assert y.isnan().tolist() == [[[False, True]]] * 3


@pytest.mark.parametrize("limit", ["max_num_steps", "max_total_steps"])
@pytest.mark.parametrize("value", [0, 2], ids=str)
def test_limits_on_the_steps_end_the_solve_where_they_end_the_loop(limit, value):
    assert_same_error(decay, TooManySteps, limit, options={limit: value})
    errors = [str(error_of(func, options={limit: value})) for func in (decay, fastode.compile(decay))]
    assert errors[0] == errors[1]


def test_the_limit_between_outputs_starts_anew_at_each_output():
    t = torch.linspace(0, 1, 9)
    for func in (decay, fastode.compile(decay)):
        assert solve(func, None, t, rtol=1e-9, options={"max_num_steps": 12}).shape == (9, 3, 2)
        assert fastode.last_stats().n_steps > 12


WRONG_TIMES = {
    "repeated": ([0.0, 0.5, 0.5], InvalidArgument, "t[1]=0.5"),
    "not-monotonic": ([0.0, 0.5, 0.2], InvalidArgument, "strictly"),
    "nan": ([0.0, NAN], InvalidArgument, "t must be finite"),
    "infinite": ([0.0, INF], InvalidArgument, "t must be finite"),
    "empty": ([], InvalidArgument, "t must hold"),
    "number": (0.5, InvalidArgument, "t must be one dimensional"),
    "matrix": ([[0.0, 1.0], [2.0, 3.0]], InvalidArgument, "t must be one dimensional"),
    "integer": (torch.tensor([0, 1]), TypeError, "`t` must be a floating point"),
}


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("name", WRONG_TIMES)
def test_times_that_are_none_are_refused(name, method):
    times, kind, says = WRONG_TIMES[name]
    t = times if isinstance(times, Tensor) else torch.tensor(times)
    assert_same_error(decay, kind, says, None, t, method=method)


def test_times_that_are_no_tensor_are_refused():
    assert_same_error(decay, InvalidArgument, "t must be a torch.Tensor", None, [0.0, 1.0])


WRONG_OPTIONS = {
    "first_step": -1,
    "safety": 0,
    "ifactor": 0.5,
    "dfactor": 2,
    "max_step": 0.0,
    "min_step": NAN,
    "max_num_steps": "many",
    "max_total_steps": NAN,
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_options_out_of_their_bounds_are_refused(name):
    assert_same_error(decay, InvalidArgument, f"options['{name}']", options={name: WRONG_OPTIONS[name]})


@pytest.mark.parametrize("step_size", [0, -1.0, INF, NAN, "small"], ids=str)
def test_a_step_size_out_of_its_bounds_is_refused(step_size):
    assert_same_error(decay, InvalidArgument, "step_size", method="rk4", options={"step_size": step_size})


def test_a_least_step_above_the_largest_is_refused():
    assert_same_error(decay, InvalidArgument, "min_step", options={"min_step": 1.0, "max_step": 0.1})


def test_an_unknown_engine_is_refused():
    assert_same_error(decay, InvalidArgument, "engine='foo'", options={"engine": "foo"})


@pytest.mark.parametrize("options", [[1], "fast", 3], ids=str)
def test_options_that_are_no_dict_are_refused(options):
    assert_same_error(decay, fastode.UnsupportedInput, "`options`", options=options)


@pytest.mark.parametrize("method", ["dopri6", 5, ("rk4",)], ids=str)
def test_an_unknown_method_is_refused(method):
    assert_same_error(decay, InvalidArgument, f'Invalid method "{method}"', method=method)


@pytest.mark.parametrize("tolerance", [-1.0, NAN, "small", None], ids=str)
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_that_is_none_is_refused(name, tolerance):
    assert_same_error(decay, InvalidArgument, name, **{name: tolerance})


@pytest.mark.parametrize("y0", [torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2, dtype=torch.bool)], ids=str)
def test_a_state_of_whole_numbers_is_refused(y0):
    assert_same_error(decay, fastode.UnsupportedInput, "`y0`", y0)


@pytest.mark.parametrize("value", [None, 3.0, torch.ones(7)], ids=["None", "number", "shape"])
def test_a_field_that_returns_no_derivative_is_an_error(value):
    assert_same_error(lambda t, y: value, FieldError, "func(t, y)")


def test_an_error_inside_the_field_is_the_users():
    def func(t: Tensor, y: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    assert_same_error(func, ZeroDivisionError, "mine")


def test_too_few_arguments_are_an_error_of_the_field():
    assert_same_error(lambda t, y, k: y * k, TypeError, "k")


def assert_by_the_loop(func: Callable[..., Any], reason: str, *given: Any, **how: Any) -> None:
    """Not native, for that reason, and with the values of the uncompiled solve."""
    expected = solve(func, *given, **how)
    found = solve(fastode.compile(func), *given, **how)
    stats = fastode.last_stats()
    assert stats is not None and stats.engine != "compiled"
    assert stats.reason.startswith("not native: ") and reason in stats.reason
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


STEP_T = torch.tensor([0.25, 0.6])


@pytest.mark.parametrize(
    ("option", "method"),
    [
        ({"norm": lambda y: y.abs().max()}, "dopri5"),
        ({"norm": "max"}, "dopri5"),
        ({"jump_t": STEP_T}, "dopri5"),
        ({"dtype": torch.float64}, "dopri5"),
        ({"interp": "cubic", "step_size": 0.1}, "rk4"),
        ({"perturb": True}, "rk4"),
        ({"grid_constructor": lambda func, y0, t: torch.linspace(0, 1, 8)}, "rk4"),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_options_of_the_loop_alone_are_named(option, method):
    assert_by_the_loop(decay, f"option {min(option)!r}", method=method, options=option)


def test_steps_that_must_end_on_the_same_time_twice_are_refused_alike():
    errors = [error_of(f, options={"step_t": torch.tensor([0.5, 0.5])}) for f in (fastode.compile(decay), decay)]
    assert type(errors[0]) is type(errors[1]) is fastode.InvalidArgument
    assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_an_unknown_option_warns_as_always(method):
    with pytest.warns(UserWarning, match="Unexpected arguments"):
        assert_by_the_loop(decay, "option 'colour'", method=method, options={"colour": 1})


def test_an_engine_asked_for_by_name_serves(monkeypatch):
    assert_by_the_loop(decay, "option 'engine'", options={"engine": "reference"})
    monkeypatch.setenv("FASTODE_ENGINE", "reference")
    assert_by_the_loop(decay, "FASTODE_ENGINE=reference")
    assert fastode.last_stats().engine == "reference"


def test_tolerances_of_rows_are_served_by_the_loop():
    assert_by_the_loop(decay, "tolerances of each row", rtol=torch.full((3, 1), 1e-5))


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_other_methods_are_served_by_the_loop(method):
    assert_by_the_loop(decay, f"method '{method}'", method=method, options={"step_size": 0.1})


def test_an_implicit_method_gives_its_own_result():
    how = {"method": "implicit_midpoint", "options": {"step_size": 0.25}}
    torch.testing.assert_close(solve(fastode.compile(decay), **how), solve(decay, **how), rtol=0, atol=0)
    assert fastode.last_stats().engine != "compiled"


def test_parts_with_different_rows_are_served_by_the_loop():
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -y[0], y[1] * torch.sin(t)

    assert_by_the_loop(func, "do not have equally many rows", (torch.ones(2), torch.ones(3, 1)))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float16], ids=str)
def test_other_dtypes_are_served_by_the_loop(dtype):
    assert_by_the_loop(decay, str(dtype), torch.ones(2, 2).to(dtype), method="rk4")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_grid_of_short_floats_is_served_by_the_loop(dtype):
    assert_by_the_loop(decay, str(dtype), None, torch.tensor([0.0, 0.3, 1.0], dtype=dtype), method="rk4")


@pytest.mark.parametrize("shape", [(3, 0), (0,)], ids=str)
def test_a_state_without_features_is_served_by_the_loop(shape):
    assert_by_the_loop(decay, "without features", torch.ones(shape))


def test_subclasses_of_tensors_are_served_by_the_loop():
    class Mine(Tensor):
        pass

    assert_by_the_loop(decay, "Mine", torch.ones(2, 2).as_subclass(Mine), method="rk4")


def test_an_argument_of_another_dtype_is_served_by_the_loop():
    assert_by_the_loop(lambda t, y, i: -y[:, i], "another dtype", None, None, torch.tensor([1, 0]))


def test_a_field_that_cannot_be_compiled_is_served_by_the_loop_which_names_the_operator():
    assert_by_the_loop(lambda t, y: -y + y.mean(0), "aten.mean")


@pytest.mark.parametrize("interface", [fastode.odeint, fastode.odeint_adjoint], ids=["odeint", "odeint_adjoint"])
def test_events_are_found_by_the_loop(interface):
    def found(f: Callable[..., Any]) -> Any:
        return interface(
            f,
            torch.ones(1, 2),
            torch.tensor([0.0, 1.0]),
            event_fn=lambda t, y: 0.7 - t + 0 * y.sum(),
            **({"adjoint_params": ()} if interface is fastode.odeint_adjoint else {}),
        )

    event_t, y = found(fastode.compile(decay))
    assert fastode.last_stats().reason == "not native: an event"
    expected_t, expected = found(decay)
    assert torch.equal(event_t, expected_t) and torch.equal(y, expected)


class Counting(nn.Module):
    """A field that is told of the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y


def count(self: Counting, t: Tensor, y: Tensor, dt: Tensor) -> None:
    self.steps += 1


class CountingByMethod(Counting):
    callback_step = count


@pytest.mark.parametrize("interface", [fastode.odeint, fastode.odeint_adjoint], ids=["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("where", ["class", "module", "field", "function"])
def test_callbacks_are_called(where, interface):
    func = CountingByMethod() if where == "class" else Counting()
    field = fastode.compile(func if where != "function" else lambda t, y: -y)
    y0, t = torch.ones(2, 1, requires_grad=True), torch.tensor([0.0, 0.5, 1.0])
    if where != "class":
        interface(field, y0, t, method="rk4")
        assert fastode.last_stats().engine == "compiled"
        target = {"module": func, "field": field, "function": field.func}[where]
        target.callback_step = lambda *args: count(func, *args)
    interface(field, y0, t, method="rk4")
    assert func.steps == 2 and fastode.last_stats().reason == "not native: callbacks"


def test_a_failed_native_solve_leaves_the_field_as_it_was():
    field = fastode.compile(decay)
    expected = solve(field)
    with pytest.raises(TooManySteps):
        solve(field, options={"max_num_steps": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(solve(field), expected)
