"""Programs of the fields in ``fields.py`` compute what the fields compute, and so do their gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fastode.compiler.evaluate import evaluate
from fastode.compiler.trace import Traced, trace

from .fields import CASES, Case

# torch.func.jvp uses it

ROWS = 5
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    """The case with everything in one dtype."""
    from fastode.compiler.places import Places

    for tensor in Places(case.func).tensors():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    args = [a.to(dtype) if isinstance(a, Tensor) else a for a in case.args]
    return Case(case.func, case.y_shape, tuple(args), case.per_row, case.unbatched, case.time_per_row)


def traced(case: Case, dtype: torch.dtype, batched: bool = True, time_per_row: bool = False) -> Traced:
    return trace(case.func, case.y_shape, batched, time_per_row, dtype, case.args, case.per_row)


def arguments(case: Case, dtype: torch.dtype) -> list[object]:
    return [torch.randn(ROWS, *a.shape[1:], dtype=dtype) if i in case.per_row else a for i, a in enumerate(case.args)]


def evaluated(result: Traced, t: Tensor, y: Tensor, args: list[object]) -> Tensor:
    flat = y.reshape(ROWS, -1)
    rows = [args[i] for i in result.per_row]
    return evaluate(result.program, t, flat, rows, result.constants.values(args))[0].reshape(y.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("time_per_row", [False, True], ids=["one_time", "times"])
@pytest.mark.parametrize("name", CASES)
def test_a_program_computes_what_its_field_does(name: str, time_per_row: bool, dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    case = in_dtype(CASES[name](), dtype)
    if time_per_row and not case.time_per_row:
        pytest.skip("the field takes one time")
    result = traced(case, dtype, time_per_row=time_per_row)
    t = torch.rand(ROWS, dtype=dtype) if time_per_row else torch.tensor(0.3, dtype=dtype)
    y = torch.randn(ROWS, *case.y_shape, dtype=dtype)
    args = arguments(case, dtype)
    expected = case.func(t, y, *args).expand(y.shape)
    torch.testing.assert_close(evaluated(result, t, y, args), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n]().unbatched])
def test_a_field_of_single_states_is_compiled(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    case = in_dtype(CASES[name](), torch.float64)
    result = traced(case, torch.float64, batched=False)
    t, y = torch.tensor(0.3), torch.randn(case.y_shape)
    (value,) = evaluate(result.program, t, y.reshape(1, -1), (), result.constants.values(case.args))
    expected = case.func(t, y, *case.args).expand(y.shape)
    torch.testing.assert_close(value.reshape(y.shape), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradients_flow_through_the_constants(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    case = in_dtype(CASES[name](), torch.float64)
    result = traced(case, torch.float64)
    leaves = [p for p in result.constants.leaves() if p.requires_grad]
    y = torch.randn(ROWS, *case.y_shape)
    t = torch.tensor(0.3)
    args = arguments(case, torch.float64)
    weights = torch.randn(y.shape)
    got = torch.autograd.grad((evaluated(result, t, y, args) * weights).sum(), leaves) if leaves else ()
    expected = torch.autograd.grad((case.func(t, y, *args) * weights).sum(), leaves) if leaves else ()
    # torch's slope of Hardsigmoid is 1/6 rounded to float32
    tolerance = 1e-7 if "Hardsigmoid" in name else 1e-10
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=tolerance, atol=tolerance)


def test_parameters_that_are_replaced_are_seen() -> None:
    net = nn.Linear(2, 2)
    result = trace(lambda t, y: net(y), (2,))
    net.weight = nn.Parameter(torch.eye(2))
    net.bias = nn.Parameter(torch.zeros(2))
    y = torch.randn(ROWS, 2)
    torch.testing.assert_close(evaluated(result, torch.tensor(0.0), y, []), y)
    other = copy.deepcopy(dict(net.named_parameters()))
    other["bias"] = torch.tensor([5.0, 6.0])
    stateless = torch.func.functional_call

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, y: Tensor) -> Tensor:
            return evaluated(result, torch.tensor(0.0), y, [])

    value = stateless(Outer(), {f"net.{k}": v for k, v in other.items()}, (y,))
    torch.testing.assert_close(value, y + other["bias"])


def test_a_layer_is_one_affine_map_of_its_own_parameters() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    result = trace(lambda t, y: net(y), (3,))
    names = [op.name for op in result.program.ops]
    assert names == ["state", "vector", "affine", "tanh", "vector", "affine"]
    assert all(any(v is p for p in net.parameters()) for v in result.constants.values())
    assert sorted(result.constants.names) == ["net.0.bias", "net.0.weight", "net.2.bias", "net.2.weight"]


def test_a_bias_added_by_hand_belongs_to_the_affine_map() -> None:
    w, b = torch.randn(3, 3), torch.randn(3)
    names = [op.name for op in trace(lambda t, y: y @ w + b, (3,)).program.ops]
    assert names == ["state", "vector", "affine"]


def test_what_is_the_same_for_all_rows_is_computed_once() -> None:
    gate = nn.Linear(1, 3)
    result = trace(lambda t, y: y * torch.sigmoid(gate(t.reshape(1, 1).expand(y.shape[0], 1))), (3,))
    gated = next(op for op in result.program.ops if op.name == "affine")
    assert result.program.ops[gated.inputs[0]].name == "time"


def test_large_constants_are_cut_before_the_solve() -> None:
    w = torch.randn(40, 40)
    result = trace(lambda t, y: y * w[:, 0] + w[3], (40,))
    assert result.constants.shapes == [(40,), (40,)]


def test_constants_can_be_computed_from_constants() -> None:
    net = nn.Linear(2, 2)
    constants = trace(lambda t, y: net(y), (2,)).constants
    weight = constants.names.index("net.weight")
    square = constants.compute(torch.matmul, [weight, weight])
    assert square == constants.compute(torch.matmul, [weight, weight])
    assert constants.shapes[square] == (2, 2)
    torch.testing.assert_close(constants.values()[square], net.weight @ net.weight)
