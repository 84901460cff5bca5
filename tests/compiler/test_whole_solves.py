"""Whole solves of compiled fields take the steps of the step loop and have its values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastode
from fastode.methods import methods

from .solving import ADAPTIVE, EXPLICIT, FIXED, SHARING, Timed, assert_same, solved

FORWARD = (0.0, 0.13, 0.5, 0.51, 1.0)
BACKWARD = (1.0, 0.8, 0.33, 0.0)


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


#: steps of one size, whatever the error
STEPS = {"first_step": 0.09, "min_step": 0.09, "max_step": 0.09}


def given_steps(method: str) -> dict[str, object]:
    """Some outputs lie inside of steps."""
    return {"options": STEPS if method in ADAPTIVE else {"step_size": 0.09}}


def chosen_steps(method: str) -> dict[str, object]:
    # the error estimate of dopri8 is a difference at the level of rounding, which decides on its steps
    return given_steps(method) if method in (*FIXED, "dopri8") else {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("times", [FORWARD, BACKWARD], ids=["forward", "backward"])
@pytest.mark.parametrize("timed", [False, True], ids=["autonomous", "timed"])
@pytest.mark.parametrize("method", EXPLICIT)
def test_every_method_has_the_steps_values_and_gradients_of_the_step_loop(method, timed, times):
    func, y0, t = Timed(timed), torch.randn(5, 2, requires_grad=True), torch.tensor(times)
    found = assert_same(func, y0, t, leaves=list(func.parameters()), method=method, **chosen_steps(method))
    assert found.stats.n_accepted > 1


@pytest.mark.parametrize("times", [FORWARD, BACKWARD], ids=["forward", "backward"])
@pytest.mark.parametrize("method", EXPLICIT)
def test_in_float32_given_steps_have_the_values_and_gradients_of_the_step_loop(method, times):
    func, y0 = Timed().float(), torch.randn(5, 2, dtype=torch.float32, requires_grad=True)
    t = torch.tensor(times, dtype=torch.float32)
    # the rounding of a dozen steps
    assert_same(
        func, y0, t, leaves=list(func.parameters()), method=method, tolerance=(2e-6, 2e-5), **given_steps(method)
    )


@pytest.mark.parametrize("method", FIXED)
def test_times_of_less_precision_than_the_state_round_in_every_operation(method):
    t = torch.tensor([0.0, 1.3, 3.0], dtype=torch.float32)
    for steps in ({}, {"step_size": 0.1}):
        assert_same(Timed(), torch.randn(5, 2, requires_grad=True), t, method=method, options=steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_chosen_steps_are_as_accurate_as_those_of_the_loop_in_either_dtype(method, dtype):
    func, y0, t = Timed(), torch.randn(5, 2), torch.tensor(FORWARD)
    exact = fastode.odeint(func, y0, t).detach()
    func, y0, t, how = func.to(dtype), y0.to(dtype), t.to(dtype), {"method": method, "rtol": 1e-4, "atol": 1e-4}
    expected, found = solved(func, y0, t, **how), solved(fastode.compile(func), y0, t, **how)
    assert found.stats.engine == "compiled" and found.y.dtype == dtype
    assert found.stats.n_func == expected.stats.n_func
    errors = [float((s.y.double() - exact).abs().max()) for s in (expected, found)]
    # steps differ by the rounding of the error estimate
    assert errors[1] <= 1.2 * errors[0] + 1e-5


def test_every_explicit_method_is_among_them():
    assert {"dopri5", "dopri8", "tsit5", "bosh3"} < set(ADAPTIVE) and {"euler", "rk4"} < set(FIXED)
    assert set(ADAPTIVE) - set(SHARING) == {"adaptive_heun", "fehlberg2"}
    assert set(EXPLICIT) < set(methods())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_times_of_either_dtype_round_as_in_the_loop(method, dtype):
    how = {"options": {"step_size": 0.07}} if method != "dopri5" else {"rtol": 1e-5}
    assert_same(Timed(), torch.randn(3, 2), torch.tensor(FORWARD, dtype=dtype), method=method, **how)


@pytest.mark.parametrize(
    "options",
    [
        {"first_step": 0.2},
        {"first_step": torch.tensor(0.05)},
        {"first_step": None},
        {"max_step": 0.03},
        {"min_step": 0.3},
        {"safety": 0.5},
        {"ifactor": 1.5},
        {"dfactor": 0.9, "first_step": 0.9},
        {"max_num_steps": 1000, "max_total_steps": 1000},
    ],
    ids=lambda o: "-".join(o),
)
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_options_of_the_controller_mean_the_same(method, options):
    func, y0 = Timed(), torch.randn(4, 2, requires_grad=True)
    t = torch.tensor(FORWARD)
    assert_same(func, y0, t, leaves=list(func.parameters()), method=method, rtol=1e-6, atol=1e-6, options=options)


@pytest.mark.parametrize(
    ("rtol", "atol"),
    [
        (torch.tensor(1e-4), 1e-6),
        (1e-5, torch.tensor([1e-3, 1e-9])),
        (torch.tensor([[1e-3, 1e-6]]), torch.tensor(1e-7)),
        (torch.tensor([[1e-5], [1e-7]]), torch.logspace(-3, -8, 6).view(1, 2, 3)),
        (torch.tensor([1e-5]), torch.zeros(1)),
    ],
)
def test_tolerances_of_features(rtol, atol):
    shape = (5, 2, 3) if torch.as_tensor(atol).ndim == 3 else (5, 2)

    def rotated(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(3 * y + t) * torch.linspace(0.1, 2.0, shape[-1])

    found = assert_same(rotated, torch.randn(shape, requires_grad=True), torch.tensor(FORWARD), rtol=rtol, atol=atol)
    assert found.stats.n_accepted > 1


@pytest.mark.parametrize("tolerance", [(1e-3, 1e-9), (0.0, 1e-5), (1e-5, 0.0), (0, 1)], ids=str)
def test_tolerances_mean_the_same(tolerance):
    rtol, atol = tolerance
    assert_same(Timed(), torch.randn(4, 2), torch.tensor(FORWARD), rtol=rtol, atol=atol)


@pytest.mark.parametrize("times", [FORWARD, BACKWARD], ids=["forward", "backward"])
@pytest.mark.parametrize("method", [m for m in ADAPTIVE if m != "dopri8"])
@pytest.mark.parametrize("stops", [[0.61, 0.3, 2.0], [-1.0, 0.13, 0.5000001], [0.0, 1.0, 0.777, 0.778], []], ids=str)
def test_steps_end_where_they_must(stops, method, times):
    func, y0 = Timed(), torch.randn(5, 2, requires_grad=True)
    how = {"method": method, "rtol": 1e-5, "atol": 1e-5, "options": {"step_t": torch.tensor(stops)}}
    assert_same(func, y0, torch.tensor(times), leaves=list(func.parameters()), **how)
    ends = fastode.odeint_dense(fastode.compile(func), y0, times[0], times[-1], **how).ends
    assert {s for s in stops if 0 < s < 1} < set(ends)


def test_a_rejected_step_is_rejected_in_both():
    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y * (1 + 200 * torch.exp(-((40 * (t - 0.5)) ** 2)))

    y0 = torch.randn(3, 2, requires_grad=True)
    found = assert_same(func, y0, torch.tensor([0.0, 1.0]), rtol=1e-6, atol=1e-6, options={"first_step": 0.4})
    assert found.stats.n_rejected > 0


@pytest.mark.parametrize("step_size", [0.3, 1.0, 5.0, torch.tensor(0.125)], ids=str)
@pytest.mark.parametrize("times", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_a_step_size_makes_the_same_grid(times, step_size):
    func, y0 = Timed(), torch.randn(4, 2, requires_grad=True)
    how = {"method": "rk4", "options": {"step_size": step_size}}
    assert_same(func, y0, torch.tensor(times), leaves=list(func.parameters()), **how)


@pytest.mark.parametrize("method", FIXED)
def test_without_a_step_size_the_grid_is_that_of_the_outputs(method):
    func, y0 = Timed(), torch.randn(4, 2, requires_grad=True)
    assert assert_same(func, y0, torch.tensor(FORWARD), method=method).stats.n_accepted == len(FORWARD) - 1


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("rows", [0, 1, 3, 37])
def test_batches_of_any_size_are_solved(rows, method):
    func, y0 = Timed(), torch.randn(rows, 2, requires_grad=True)
    found = assert_same(func, y0, torch.tensor(FORWARD), leaves=list(func.parameters()), method=method)
    assert found.y.shape == (len(FORWARD), rows, 2)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("shape", [(2,), (4, 3, 2), (1, 1, 1, 2)], ids=str)
def test_states_of_any_shape_are_solved(shape, method):
    func, y0 = Timed(), torch.randn(shape, requires_grad=True)
    assert_same(func, y0, torch.tensor(FORWARD), leaves=list(func.parameters()), method=method, rtol=1e-5)


def test_a_number_is_a_state():
    y0 = torch.tensor(0.7, requires_grad=True)
    found = assert_same(lambda t, y: -y * torch.cos(t), y0, torch.tensor(FORWARD))
    assert found.y.shape == (len(FORWARD),)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2].t(),
        lambda x: x[:1].t().expand(5, 2),
        torch._neg_view,
        lambda x: torch.complex(x, x + 1).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "negated", "imaginary-part"],
)
def test_views_are_read_as_what_they_show(view):
    base = torch.randn(2, 2 if view is torch._neg_view else 5, requires_grad=True)
    y0 = view(base)
    if y0.shape[-1] != 2:
        y0 = y0.t()
    func, t = Timed(), torch.tensor(FORWARD)
    for field, check in ((func, None), (fastode.compile(func), "compiled")):
        y = fastode.odeint(field, y0, t, method="rk4")
        (grad,) = torch.autograd.grad(y.square().sum(), base, retain_graph=True)
        if check is None:
            expected = y.detach(), grad
            continue
        assert fastode.last_stats().engine == check
        torch.testing.assert_close((y.detach(), grad), expected, rtol=1e-12, atol=1e-12)


def test_views_as_arguments_and_parameters_are_read_as_what_they_show():
    k, w = torch._neg_view(torch.randn(5, 2)), torch._neg_view(torch.randn(2))
    y0, t = torch.randn(5, 2), torch.tensor([0.0, 1.0])
    assert_same(lambda t, y, k, w: k * torch.sin(y) + w, y0, t, args=(k, w))
    assert_same(lambda t, y, k: k * torch.sin(y) + w, y0, t, args=(k.flip(0).t().contiguous().t(),))


def test_the_state_is_neither_changed_nor_handed_out():
    y0 = torch.randn(3, 2)
    before = y0.clone()
    y = fastode.odeint(fastode.compile(Timed()), y0, torch.tensor(FORWARD))
    y.detach().zero_()
    assert torch.equal(y0, before)


class WithArguments(nn.Module):
    """A field with arguments of each row, arguments for all and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 2))

    def forward(self, t, y, rate, matrix, shift, power):
        return torch.tanh(y @ (self.w + matrix)) - rate * y + torch.sin(power * t) * shift


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("rows", [1, 5, 37])
def test_arguments_and_their_gradients_are_those_of_the_loop(rows, method):
    func = WithArguments()
    y0, rate, matrix = (torch.randn(s, requires_grad=True) for s in ((rows, 2), (rows, 1), (2, 2)))
    shift = torch.randn(2, requires_grad=True)
    args = (rate, matrix, shift, 3)
    leaves = [rate, matrix, shift, *func.parameters()]
    assert_same(func, y0, torch.tensor(FORWARD), args=args, leaves=leaves, method=method, rtol=1e-6, atol=1e-6)


def test_only_what_requires_grad_gets_a_gradient():
    func = WithArguments()
    y0, rate, matrix, shift = (torch.randn(s) for s in ((5, 2), (5, 1), (2, 2), (2,)))
    t = torch.tensor(FORWARD)
    for wanted in (rate, matrix, shift, func.w):
        for x in (rate, matrix, shift, func.w):
            x.requires_grad_(x is wanted)
        assert len(assert_same(func, y0, t, (rate, matrix, shift, 2.0), [wanted], method="rk4").grads) == 1


@pytest.mark.parametrize("rows", [2, 3])
def test_an_argument_as_long_as_the_batch_means_what_it_means_to_torch(rows):
    w, y0, t = torch.randn(rows, rows), torch.randn(rows, rows), torch.tensor([0.0, 0.5])
    for func in (lambda t, y, w: y @ w, lambda t, y, w: y * w, lambda t, y, w: y * w[0], lambda t, y, w: (w.T * y).T):
        expected, found = solved(func, y0, t, (w,)), solved(fastode.compile(func), y0, t, (w,))
        torch.testing.assert_close(found.y, expected.y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_one_time_gives_the_initial_state(method):
    y0 = torch.randn(3, 2, requires_grad=True)
    found = assert_same(Timed(), y0, torch.tensor([0.5]), method=method)
    assert torch.equal(found.y[0], y0.detach()) and found.stats.n_accepted == 0


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "dopri8"])
def test_many_outputs_inside_one_step_are_the_interpolant_of_the_loop(method):
    options = {"first_step": 0.5, "min_step": 0.5} if method in ADAPTIVE else {"step_size": 0.5}
    func, y0 = Timed(), torch.randn(3, 2, requires_grad=True)
    t = torch.linspace(0, 1, 23)
    found = assert_same(func, y0, t, leaves=list(func.parameters()), method=method, options=options)
    assert found.stats.n_accepted <= 3


#: at zero, where some derivatives are a matter of choice
AT_ZERO = {
    "norm": lambda t, y: y / (1 + y.norm(dim=-1, keepdim=True)),
    "norm of degree 1": lambda t, y: y / (1 + y.norm(p=1, dim=-1, keepdim=True)),
    "norm of degree 3": lambda t, y: y / (1 + y.norm(p=3, dim=-1, keepdim=True)),
    "norm of degree inf": lambda t, y: y / (1 + y.norm(p=float("inf"), dim=-1, keepdim=True)),
    "standard deviation": lambda t, y: y / (1 + y.std(-1, keepdim=True)),
    "normalize": lambda t, y: 1e-9 * nn.functional.normalize(y, dim=-1) - y,
    "cosine similarity": lambda t, y: 1e-9 * nn.functional.cosine_similarity(y, y + 1, dim=-1)[:, None] - y,
    "abs": lambda t, y: y.abs(),
    "power": lambda t, y: y.abs() ** 1.5 - y**2 + y,
    "relu": lambda t, y: torch.relu(y) + nn.functional.leaky_relu(y) + nn.functional.elu(y),
    "relu6": lambda t, y: nn.functional.relu6(y) + nn.functional.hardtanh(y + 1),
    "clamp": lambda t, y: y.clamp(0, 1) + y.clamp(min=0) + y.clamp(max=0),
    "clamp by tensors": lambda t, y: torch.clamp(y, torch.zeros(3), 1 - y) + y.clamp(max=torch.zeros(3)),
    # torch has the float32 of 1/6 for a slope
    "hardsigmoid": lambda t, y: 1e-3 * (nn.functional.hardsigmoid(y - 3) + nn.functional.hardsigmoid(y + 3)),
    "hardswish": lambda t, y: nn.functional.hardswish(y - 3) + nn.functional.hardswish(y + 3),
    "logsigmoid": lambda t, y: nn.functional.logsigmoid(y),
    "logit": lambda t, y: torch.logit(y + 0.25, 0.25) - torch.logit(y - 0.25, 0.25),
    "first of the largest": lambda t, y: torch.stack([0 * y, y, 2 * y, -y], -1).max(-1).values,
    "first of the smallest": lambda t, y: torch.stack([y, -y, 2 * y], -1).min(-1).values,
    "maximum": lambda t, y: torch.maximum(y, -y) + torch.minimum(y, torch.zeros_like(y)),
    "product": lambda t, y: y.prod(-1, keepdim=True) + y.cumprod(-1) + y**0,
    "sinc": lambda t, y: torch.sinc(y) + nn.functional.softsign(y),
    "angles": lambda t, y: torch.asinh(y) + torch.atan(y) + torch.asin(y / 9) + torch.atanh(y / 9) + torch.acos(y / 9),
    "fmax": lambda t, y: torch.fmax(y, 2 * y) + torch.fmin(y, -y),
    "rounding": lambda t, y: torch.round(y) + torch.frac(y) + torch.remainder(y, 2) + torch.fmod(y, 2),
    "distances": lambda t, y: torch.cdist(y[..., None], y[..., None]).sum(-1) - y,
}


@pytest.mark.parametrize("name", AT_ZERO)
@pytest.mark.parametrize("start", [[[0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]], ids=["one row", "two rows"])
def test_derivatives_at_zero_are_those_that_torch_chooses(name, start):
    y0 = torch.tensor(start, requires_grad=True)
    found = assert_same(AT_ZERO[name], y0, torch.tensor([0.0, 0.5]), method="rk4", options={"step_size": 0.25})
    assert bool(found.grads[0].isfinite().all())


def test_a_gradient_that_misses_most_outputs_is_right():
    func, t = Timed(), torch.tensor(FORWARD)
    y0 = torch.randn(3, 2, requires_grad=True)
    for output in range(len(FORWARD)):
        grads = [
            torch.autograd.grad(fastode.odeint(f, y0, t, rtol=1e-5)[output, 1, 0], y0)[0]
            for f in (func, fastode.compile(func))
        ]
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-10, atol=1e-12)


def test_a_solution_can_be_differentiated_again_with_other_weights():
    y0 = torch.randn(3, 2, requires_grad=True)
    y = fastode.odeint(fastode.compile(Timed()), y0, torch.tensor(FORWARD), rtol=1e-5)
    (first,) = torch.autograd.grad(y.sum(), y0, retain_graph=True)
    (second,) = torch.autograd.grad(3 * y.sum(), y0)
    torch.testing.assert_close(second, 3 * first, rtol=1e-12, atol=1e-12)


def test_a_tensor_changed_between_the_solve_and_its_gradient_is_an_error():
    func = Timed()
    y0 = torch.randn(3, 2, requires_grad=True)
    y = fastode.odeint(fastode.compile(func), y0, torch.tensor(FORWARD))
    with torch.no_grad():
        func.net[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


@pytest.mark.parametrize(
    "how",
    [
        {"method": "rk4", "options": {"step_size": 0.4}},
        # one step size, whatever the error, so that steps do not depend on what is perturbed
        {"method": "dopri5", "rtol": 1e3, "atol": 1e3, "options": {"first_step": 0.4, "max_step": 0.4}},
        {"method": "bosh3", "rtol": 1e3, "atol": 1e3, "options": {"first_step": 0.4, "max_step": 0.4}},
    ],
    ids=["rk4", "dopri5", "bosh3"],
)
def test_gradients_of_a_whole_solve_are_those_of_finite_differences(how):
    func = WithArguments()
    field = fastode.compile(func)
    t = torch.tensor([0.0, 0.5, 1.0])
    inputs = [torch.randn(s, requires_grad=True) for s in ((3, 2), (3, 1), (2, 2), (2,))]

    def solve(y0: Tensor, rate: Tensor, matrix: Tensor, shift: Tensor, *parameters: Tensor) -> Tensor:
        return fastode.odeint(field, y0, t, rate, matrix, shift, 2, **how)

    assert torch.autograd.gradcheck(solve, (*inputs, *func.parameters()))
    assert fastode.last_stats().engine == "compiled"


@pytest.mark.parametrize("gradient", [None, "discrete"], ids=str)
def test_odeint_adjoint_of_a_compiled_field_is_the_native_solve(gradient):
    func, t = Timed(), torch.tensor(FORWARD)
    y0 = torch.randn(3, 2, requires_grad=True)
    found = fastode.odeint_adjoint(fastode.compile(func), y0, t, rtol=1e-6, gradient=gradient)
    assert fastode.last_stats().engine == "compiled"
    expected = fastode.odeint(func, y0, t, rtol=1e-6)
    inputs = [y0, *func.parameters()]
    got, want = (torch.autograd.grad(y.sin().sum(), inputs) for y in (found, expected))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
