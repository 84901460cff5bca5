"""Bad input: every exception names the argument, what it was and what is allowed, and keeps torchdiffeq's type."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import fastode
from fastode import (
    FieldError,
    InvalidArgument,
    NonFiniteState,
    SolverError,
    StepSizeUnderflow,
    TooManySteps,
    UnsupportedInput,
)

D = torch.float64
Y = torch.ones(2, dtype=D)
T = torch.tensor([0.0, 1.0], dtype=D)


def decay(t: Tensor, y: Any) -> Any:
    return tuple(-p for p in y) if isinstance(y, tuple) else -y


def solve(**changes: Any) -> Any:
    return fastode.odeint(**{"func": decay, "y0": Y, "t": T, **changes})


def rk4(**options: Any) -> dict[str, Any]:
    return {"method": "rk4", "options": options}


def case(name: str, call: dict[str, Any], kinds: type | tuple[type, ...], *words: str) -> Any:
    """``solve(**call)`` raises one exception of all ``kinds`` (types as torchdiffeq's) that says all ``words``."""
    return pytest.param(call, kinds if isinstance(kinds, tuple) else (kinds,), words, id=name.replace(" ", "-"))


def check(call: Callable[[], Any], kinds: tuple[type, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(kinds[0]) as caught:
        call()
    for kind in kinds:
        assert isinstance(caught.value, kind)
    for word in words:
        assert word in str(caught.value)


ARGUMENT = (InvalidArgument, ValueError, AssertionError)
NAN = float("nan")

TIMES = [
    case("list", {"t": [0.0, 1.0]}, ARGUMENT, "t must be a torch.Tensor", "list", "torch.tensor(t)"),
    case("integers", {"t": torch.tensor([0, 1])}, TypeError, "`t` must be a floating point Tensor but is a", "Long"),
    case("complex", {"t": T * 1j}, TypeError, "`t` must be a floating point Tensor but is a", "Complex"),
    case("scalar", {"t": T[0]}, ARGUMENT, "t must be one dimensional", "()"),
    case("matrix", {"t": T[None]}, ARGUMENT, "t must be one dimensional", "(1, 2)"),
    case("empty", {"t": T[:0]}, ARGUMENT, "t must hold at least one time", "empty"),
    case("back and forth", {"t": torch.tensor([0.0, 1.0, 0.5])}, ARGUMENT,
         "t must be strictly increasing or decreasing", "t[1]=1", "t[2]=0.5"),
    case("forth and back", {"t": torch.tensor([1.0, 0.0, 0.5])}, ARGUMENT,
         "t must be strictly increasing or decreasing", "t[1]=0", "t[2]=0.5"),
    case("repeated", {"t": torch.tensor([0.0, 0.0])}, ARGUMENT,
         "t must be strictly increasing or decreasing", "t[0]=0", "t[1]=0"),
    case("nan", {"t": torch.tensor([0.0, NAN, 1.0])}, ARGUMENT, "t must be finite", "nan"),
    case("infinite", {"t": torch.tensor([0.0, math.inf])}, ARGUMENT, "t must be finite", "inf"),
    case("meta", {"t": T.to("meta")}, (UnsupportedInput, TypeError), "the values of `t` are needed", "meta"),
]  # fmt: skip

STATES = [
    case("none", {"y0": None}, ARGUMENT, "y0 must be either a torch.Tensor or a tuple", "NoneType"),
    case("number", {"y0": 1.0}, ARGUMENT, "y0 must be either a torch.Tensor or a tuple", "float"),
    case("numbers", {"y0": [1.0, 2.0]}, ARGUMENT, "y0 must be either a torch.Tensor or a tuple", "float"),
    case("empty tuple", {"y0": ()}, ARGUMENT, "y0 must be either a torch.Tensor or a tuple", "empty"),
    case("integers", {"y0": torch.ones(2, dtype=torch.int64)}, TypeError, "`y0`", "torch.int64", "y0.float()"),
    case("booleans", {"y0": torch.ones(2, dtype=torch.bool)}, TypeError, "`y0`", "torch.bool", "y0.float()"),
    case("eight bits", {"y0": Y.to(torch.float8_e4m3fn)}, TypeError, "`y0`", "float8", "y0.float()"),
    case("sparse", {"y0": Y.to_sparse()}, TypeError, "`y0` must be a dense tensor", "sparse_coo", "y0.to_dense()"),
    case("meta", {"y0": Y.to("meta")}, TypeError, "`y0`", "meta"),
    case("meta on a grid", {"y0": Y.to("meta"), "method": "rk4"}, TypeError, "`y0`", "meta"),
    case("two devices", {"y0": (Y, Y.to("meta"))}, ARGUMENT, "y0 must be on one device", "cpu", "meta"),
    case("nan", {"y0": torch.tensor([1.0, NAN])}, (NonFiniteState, SolverError, AssertionError),
         "non-finite values in state `y`: 1 of 2", "t=0"),
    case("infinity in a part", {"y0": (Y, Y * math.inf)}, (NonFiniteState, AssertionError), "2 of 2", "part 1"),
]  # fmt: skip


def tolerances(name: str) -> Iterator[Any]:
    """The same for ``rtol`` and ``atol``."""
    pair = (Y, Y)
    for label, value, y0, words in (
        ("negative", -1.0, Y, ("must not be negative", "-1.0")),
        ("nan", NAN, Y, ("must not be negative or NaN", "nan")),
        ("none", None, Y, ("must be a number, a tensor or a tuple", "None")),
        ("text", "loose", Y, ("must be a number, a tensor or a tuple", "'loose'")),
        ("complex", 1j, Y, ("must be a number, a tensor or a tuple", "1j")),
        ("texts", ("a", "b"), pair, ("must be a number, a tensor or a tuple", "'a'")),
        ("shape", torch.ones(3), Y, ("(3,)", "does not broadcast with the state", "(2,)")),
        ("larger shape", torch.ones(3, 2), Y, ("(3, 2)", "does not broadcast with the state", "(2,)")),
        ("tuple for a tensor", (1e-3, 1e-3, 1e-3), Y, ("(3,)", "does not broadcast with the state", "(2,)")),
        ("negative element", torch.tensor([1e-3, -1.0]), Y, ("must not be negative", "-1.0")),
        ("nan element", torch.tensor([1e-3, NAN]), Y, ("must not be negative or NaN", "nan")),
        ("negative in a tuple", (1e-3, -2.0), pair, ("must not be negative", "-2.0")),
        ("short tuple", (1e-3,), pair, (f"If using tupled {name} it must have the same length as the tuple y0", "1")),
        ("with gradient", torch.tensor(1e-3, requires_grad=True), Y, ("cannot require gradient", ".detach()")),
    ):
        yield case(f"{name} {label}", {name: value, "y0": y0}, ARGUMENT, name, *words)


OPTIONS = [
    case("method misspelt", {"method": "dopri"}, ARGUMENT,
         'Invalid method "dopri". Must be one of {"adaptive_heun"', "Did you mean 'dopri"),
    case("method of another type", {"method": 5}, ARGUMENT, 'Invalid method "5"'),
    case("engine", {"options": {"engine": "nativ"}}, ARGUMENT, "engine='nativ'", "Did you mean 'native'?", "reference"),
    case("options as list", {"options": ["first_step"]}, TypeError, "`options` must be a dict", "['first_step']"),
    case("norm", {"options": {"norm": "rsm"}}, ARGUMENT, "options['norm']='rsm'", "rms, max, per_sample"),
    case("dtype", {"options": {"dtype": "float32"}}, TypeError, "options['dtype']", "'float32'", "torch.float64"),
    *[
        case(f"{key} {value}", {"options": {key: value}}, ARGUMENT, f"options['{key}'] must be {allowed}", shown)
        for key, value, allowed, shown in (
            ("first_step", 0.0, "positive", "is 0"),
            ("first_step", -0.5, "positive", "is -0.5"),
            ("first_step", NAN, "positive", "is nan"),
            ("first_step", "small", "a number", "'small'"),
            ("max_step", 0.0, "positive", "is 0"),
            ("max_step", -1.0, "positive", "is -1"),
            ("min_step", NAN, "a number", "is nan"),
            ("safety", 0.0, "positive", "is 0"),
            ("safety", NAN, "positive", "is nan"),
            ("ifactor", 0.5, "at least 1", "is 0.5"),
            ("ifactor", -1.0, "at least 1", "is -1"),
            ("dfactor", 2.0, "from 0 to 1", "is 2"),
            ("dfactor", -0.1, "from 0 to 1", "is -0.1"),
            ("max_num_steps", "many", "a number", "'many'"),
            ("max_total_steps", NAN, "a number", "is nan"),
        )
    ],
    case("min_step above max_step", {"options": {"min_step": 1.0, "max_step": 0.25}}, ARGUMENT,
         "options['min_step'] must not be above options['max_step']", "1 and 0.25"),
    case("step_t and jump_t overlap", {"options": {"step_t": torch.tensor([0.5]), "jump_t": torch.tensor([0.5])}},
         ARGUMENT, "`step_t` and `jump_t` must not have any repeated elements between them."),
    *[
        case(f"{key} requires grad", {"options": {key: torch.tensor([0.5], requires_grad=True)}}, ARGUMENT,
             f"{key} cannot require gradient", f"{key}.detach()")
        for key in ("step_t", "jump_t")
    ],
    case("step_size and grid_constructor", rk4(step_size=0.1, grid_constructor=lambda f, y, t: t), ARGUMENT,
         "step_size and grid_constructor are mutually exclusive arguments."),
    *[
        case(f"step_size {value}", rk4(step_size=value), ARGUMENT, f"options['step_size'] must be {allowed}")
        for value, allowed in (
            (0, "positive and finite, but is 0"), (-0.1, "positive and finite, but is -0.1"),
            (NAN, "positive and finite, but is nan"), (math.inf, "positive and finite, but is inf"),
            ("a", "a number, but is 'a'"), (torch.ones(2), "a number, but is tensor"),
        )
    ],
    case("grid that ends early", rk4(grid_constructor=lambda f, y, t: t[:1]), ARGUMENT,
         "options['grid_constructor'] must return a 1-D tensor from t[0]=0.0 to t[-1]=1.0", "[0.0]"),
    case("grid without points", rk4(grid_constructor=lambda f, y, t: t[:0]), ARGUMENT, "grid_constructor", "[]"),
    case("grid of two dimensions", rk4(grid_constructor=lambda f, y, t: t[None]), ARGUMENT, "grid_constructor", "1-D"),
    case("grid as list", rk4(grid_constructor=lambda f, y, t: [0.0, 1.0]), ARGUMENT, "grid_constructor", "a list"),
    case("grid_constructor no function", rk4(grid_constructor=T), TypeError, "grid_constructor", "callable", "Tensor"),
    case("interp", rk4(interp="spline", step_size=0.3), ARGUMENT, "Unknown interpolation method spline", "'cubic'"),
    case("max_order", {"method": "explicit_adams", "options": {"max_order": 13}}, ARGUMENT,
         "max_order must be at most 12", "13"),
    case("max_iters", {"method": "implicit_euler", "options": {"max_iters": 0}}, ARGUMENT, "max_iters", "at least 1"),
    case("scipy's solver", {"method": "scipy_solver", "options": {"solver": "RK54"}}, ARGUMENT, "'RK54'", "DOP853"),
]  # fmt: skip

FIELDS = [
    case("none", {"func": lambda t, y: None}, FieldError, "func(t, y) returned a NoneType", "(2,)"),
    case("number", {"func": lambda t, y: 1.0}, FieldError, "func(t, y) returned a float", "(2,)"),
    case("array", {"func": lambda t, y: y.numpy()}, FieldError, "func(t, y) returned a ndarray", "torch.Tensor"),
    case("tuple for a tensor", {"func": lambda t, y: (y,)}, FieldError, "func(t, y) returned a tuple"),
    case("shape", {"func": lambda t, y: torch.ones(3)}, (FieldError, TypeError, ValueError), "(3,)", "(2,)"),
    case("larger shape", {"func": lambda t, y: torch.ones(3, 2)}, FieldError, "(3, 2)", "state has shape (2,)"),
    case("complex", {"func": lambda t, y: y * 1j}, FieldError, "complex128", "the state is real (torch.float64)"),
    case("meta", {"func": lambda t, y: y.to("meta")}, FieldError, "on meta", "on cpu"),
    case("sparse", {"func": lambda t, y: y.to_sparse()}, FieldError, "not dense", "sparse_coo", ".to_dense()"),
    case("short tuple", {"func": lambda t, y: (y[0],), "y0": (Y, Y)}, FieldError, "returned 1 tensors", "`y0` has 2"),
    case("tensor for a tuple", {"func": lambda t, y: y[0], "y0": (Y, Y)}, FieldError, "returned 1 tensors", "has 2"),
    case("none in a tuple", {"func": lambda t, y: (y[0], None), "y0": (Y, Y)}, FieldError, "NoneType"),
    case("not callable", {"func": 3}, TypeError, "`func` must be callable as func(t, y)", "int"),
]  # fmt: skip

FAILURES = [
    case("nan", {"func": lambda t, y: y * NAN}, (StepSizeUnderflow, AssertionError), "underflow in dt 0.0", "NaN"),
    case("blow up", {"func": lambda t, y: y * y, "t": 2 * T}, (StepSizeUnderflow, SolverError), "t=1.0000000"),
    case("no tolerance", {"rtol": 0.0, "atol": 0.0}, (StepSizeUnderflow, AssertionError), "`rtol`, `atol`"),
    case("half precision", {"y0": Y.half()}, (StepSizeUnderflow, AssertionError), "too small for the state's dtype"),
    case("many steps", {"options": {"max_num_steps": 2}}, (TooManySteps, AssertionError),
         "max_num_steps exceeded (2>=2)", "t=0.17", "Raise options['max_num_steps']"),
    case("no steps", {"options": {"max_num_steps": 0}}, (TooManySteps, AssertionError), "exceeded (0>=0)"),
    case("many in all", {"options": {"max_total_steps": 3}}, TooManySteps, "max_total_steps exceeded (3) at t="),
]  # fmt: skip

EVENTS = [
    case("times", {"event_fn": lambda t, y: y[0], "t": torch.linspace(0, 1, 3)}, ARGUMENT,
         "We require len(t) == 2 when in event handling mode, but got len(t)=3."),
    case("no step_size", {"event_fn": lambda t, y: y[0] - 0.5, "method": "rk4"}, ARGUMENT,
         "Event handling for fixed step solvers currently requires `step_size` to be provided in options."),
    case("never", {"event_fn": lambda t, y: y[0] + 1, **rk4(step_size=0.5)}, (TooManySteps, RuntimeError),
         "Reached maximum number of iterations 20000.", "t=10000", "options['step_size']"),
    case("scipy", {"event_fn": lambda t, y: y[0], "method": "scipy_solver"}, ARGUMENT, "'scipy_solver'", "'dopri5'"),
    case("not callable", {"event_fn": 3}, TypeError, "`event_fn` must be callable as event_fn(t, y)", "int"),
    case("none", {"event_fn": lambda t, y: None}, (FieldError, TypeError), "event_fn(t, y) returned a NoneType"),
    case("number", {"event_fn": lambda t, y: float(y[0])}, TypeError, "event_fn(t, y) returned a float"),
    case("no elements", {"event_fn": lambda t, y: y[:0]}, FieldError, "event_fn(t, y)", "without elements"),
    case("nan", {"event_fn": lambda t, y: y[0] * NAN}, FieldError, "event_fn(t, y) is NaN at the initial time 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kinds", "words"), TIMES)
def test_a_wrong_t_is_named_and_described(call: Any, kinds: Any, words: Any) -> None:
    check(lambda: solve(**call), kinds, words)


@pytest.mark.parametrize(("call", "kinds", "words"), STATES)
def test_a_wrong_y0_is_named_and_described(call: Any, kinds: Any, words: Any) -> None:
    check(lambda: solve(**call), kinds, words)


@pytest.mark.parametrize(("call", "kinds", "words"), [*tolerances("rtol"), *tolerances("atol")])
def test_a_wrong_tolerance_is_named_and_described(call: Any, kinds: Any, words: Any) -> None:
    check(lambda: solve(**call), kinds, words)


@pytest.mark.parametrize(("call", "kinds", "words"), OPTIONS)
def test_a_wrong_option_is_named_and_described(call: Any, kinds: Any, words: Any) -> None:
    check(lambda: solve(**call), kinds, words)


@pytest.mark.parametrize(("call", "kinds", "words"), FIELDS)
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_field_that_returns_something_else_is_told_what_to_return(
    call: Any, kinds: Any, words: Any, method: str
) -> None:
    check(lambda: solve(method=method, **call), kinds, words)


@pytest.mark.parametrize(("call", "kinds", "words"), FAILURES)
def test_a_solve_that_cannot_go_on_says_where_it_stopped_and_what_helps(call: Any, kinds: Any, words: Any) -> None:
    check(lambda: solve(**call), kinds, words)


@pytest.mark.parametrize(("call", "kinds", "words"), EVENTS)
def test_a_wrong_event_is_named_and_described(call: Any, kinds: Any, words: Any) -> None:
    check(lambda: solve(**call), kinds, words)


def test_an_exception_of_the_field_arrives_unchanged() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        solve(func=field)


@pytest.mark.parametrize("name", ["y0", "t"])
def test_a_tensor_that_another_mode_only_describes_is_refused(name: str) -> None:
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor({"y0": Y, "t": T}[name])
    check(lambda: solve(**{name: fake}), (UnsupportedInput, TypeError), ("values of", "FakeTensor"))


class Module(nn.Module):
    """``y' = -w y``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.w * y


ADJOINT = [
    case("gradient", {"gradient": "discreet"}, ARGUMENT, "gradient='discreet'", "Did you mean 'discrete'?", "backsolve",
         "use odeint"),
    case("no module", {"func": decay}, ARGUMENT, "func must be an instance of nn.Module", "`adjoint_params=()`"),
    case("another method", {"adjoint_method": "rk4", "options": {"first_step": 0.1}}, ARGUMENT,
         "`adjoint_method != method`", "`adjoint_options` must be passed as well"),
    case("names with parameters", {"adjoint_params": list(Module().named_parameters())}, TypeError,
         "`adjoint_params` must hold tensors", "tuple"),
    case("options", {"adjoint_options": ["norm"]}, TypeError, "`adjoint_options` must be a dict", "['norm']"),
    case("norm", {"adjoint_options": {"norm": "semi"}}, ARGUMENT, "adjoint_options['norm']='semi'", "'seminorm'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kinds", "words"), ADJOINT)
def test_a_wrong_argument_of_the_adjoint_is_named_and_described(call: Any, kinds: Any, words: Any) -> None:
    check(lambda: fastode.odeint_adjoint(**{"func": Module(), "y0": Y, "t": T, **call}), kinds, words)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"adjoint_method": "dopri6"}, ('Invalid method "dopri6"', "Did you mean 'dopri")),
        ({"adjoint_rtol": -1.0}, ("rtol must not be negative", "-1.0")),
        ({"adjoint_options": {"safety": 0.0}}, ("options['safety']", "positive")),
    ],
    ids=["method", "tolerance", "option"],
)
def test_what_is_wrong_for_the_backward_solve_is_said_by_backward_at_the_latest(call: Any, words: Any) -> None:
    def train() -> None:
        fastode.odeint_adjoint(Module(), Y, T, **call).sum().backward()

    check(train, ARGUMENT, words)


def test_a_dense_solution_says_which_times_it_knows() -> None:
    dense = fastode.odeint_dense(decay, Y, T[0], T[1])
    words = ("invalid interpolation, fails `t0 <= t <= t1`", "spans 0.0 to", "t=[1.5]")
    check(lambda: dense(torch.tensor(1.5)), ARGUMENT, words)


WARNINGS = {
    "unknown option": ({"options": {"eps": 1e-3, "grid_points": T}}, "Dopri5Solver: Unexpected arguments {'eps'"),
    "unknown option of a grid": ({**rk4(first_step=0.1)}, "RK4: Unexpected arguments {'first_step': 0.1}"),
    "low order": ({"method": "explicit_adams", "options": {"max_order": 3}},
                  "max_order is below 4, so the solver reduces to `rk4`."),
    "corrector": ({"method": "implicit_adams", "func": lambda t, y: -40 * y, "t": torch.linspace(0, 3, 7, dtype=D)},
                  "Functional iteration did not converge. Solution may be incorrect."),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), WARNINGS.values(), ids=WARNINGS)
def test_what_torchdiffeq_only_warns_of_is_a_warning(call: Any, words: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        solve(**call)
    assert words in str(seen[0].message)
    assert {w.category for w in seen} == {UserWarning}


def test_a_callback_that_is_not_supported_is_a_warning_and_is_not_called() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y

    called: list[str] = []
    field.callback_accept_step = lambda *args: called.append("accept")  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match=re.escape("Solver 'rk4' does not support callbacks {'callback_accept_step'}")):
        solve(func=field, method="rk4")
    assert not called


def test_an_adjoint_parameter_without_gradient_is_a_warning_where_a_norm_would_miss_it() -> None:
    fixed = torch.ones(2)
    with pytest.warns(UserWarning, match="An adjoint parameter was passed without requiring gradient"):
        fastode.odeint_adjoint(
            decay, Y, T, adjoint_params=(fixed,), adjoint_options={"norm": lambda parts: parts[0].abs().max()}
        )


PERMITTED = {
    "infinite rtol": {"rtol": math.inf},
    "integer tolerance": {"rtol": 1, "atol": torch.tensor(1)},
    "numbers as tensors": {"options": {"first_step": torch.tensor(0.1), "max_step": torch.tensor([0.5])}},
    "no growth and no cut": {"options": {"ifactor": 1.0, "dfactor": 1.0, "safety": 1.0}},
    "equal bounds": {"options": {"min_step": 0.25, "max_step": 0.25}},
    "prescribed times as list, in no order": {"options": {"step_t": [0.7, 0.2], "jump_t": 0.5}},
    "repeated prescribed times of a tensor of integers": {"options": {"step_t": torch.tensor([1])}},
    "a slope of integers": {"func": lambda t, y: torch.ones(2, dtype=torch.int64)},
    "times of another dtype": {"t": T.to(torch.float32)},
    "one time": {"t": T[:1], "options": {"max_num_steps": 0}},
    "tensor step_size": rk4(step_size=torch.tensor(0.3)),
}


@pytest.mark.parametrize("call", PERMITTED.values(), ids=PERMITTED)
def test_what_works_in_torchdiffeq_is_not_refused(call: Any) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    theirs = torchdiffeq.odeint(**{"func": decay, "y0": Y, "t": T, **call})
    torch.testing.assert_close(solve(**call), theirs, rtol=1e-12, atol=1e-12)
