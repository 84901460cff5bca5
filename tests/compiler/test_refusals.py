"""What cannot be a program is refused, with the operator, the line and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastode.compiler.trace import trace
from fastode.errors import CannotCompile, FieldError

Field = Callable[..., Tensor]
REFUSED: dict[str, tuple[Field, str, str]] = {}


def refused(operator: str, reason: str) -> Callable[[Field], Field]:
    """Registers a field that is refused for an operator and a reason."""

    def register(func: Field) -> Field:
        REFUSED[func.__name__] = (func, operator, reason)
        return func

    return register


@refused("aten.add.Tensor", "combines different rows")
def reversed_rows(t: Tensor, y: Tensor) -> Tensor:
    return y + y.flip(0)


@refused("aten.mm", "combines different rows")
def rows_times_rows(t: Tensor, y: Tensor) -> Tensor:
    return (y @ y.T) @ y


@refused("aten._softmax", "combines different rows")
def softmax_over_rows(t: Tensor, y: Tensor) -> Tensor:
    return torch.softmax(y, 0)


@refused("aten.mean", "combines different rows")
def mean_of_everything(t: Tensor, y: Tensor) -> Tensor:
    return y - y.mean()


@refused("aten.sum", "combines different rows")
def sum_over_rows(t: Tensor, y: Tensor) -> Tensor:
    return y - y.sum(0)


@refused("aten.mul.Tensor", "same for every row")
def numbered_rows(t: Tensor, y: Tensor) -> Tensor:
    return y * torch.arange(y.shape[0])[:, None]


@refused("aten._local_scalar_dense", "torch.where")
def branch_on_state(t: Tensor, y: Tensor) -> Tensor:
    return y if y[0, 0] > 0 else -y


@refused("aten._local_scalar_dense", "torch.where")
def branch_on_all_rows(t: Tensor, y: Tensor) -> Tensor:
    return y if (y.abs().max() > 1).logical_not() else -y


@refused("aten._local_scalar_dense", "torch.where")
def branch_on_time(t: Tensor, y: Tensor) -> Tensor:
    return y if t > 0.5 else -y


@refused("aten._local_scalar_dense", "reads a value of the state or of the time")
def time_as_a_number(t: Tensor, y: Tensor) -> Tensor:
    return y * t.item()


@refused("aten._local_scalar_dense", "keep it a tensor")
def parameter_as_a_number(t: Tensor, y: Tensor) -> Tensor:
    return y * float(SCALE)


SCALE = nn.Parameter(torch.tensor(2.0))


@refused("Tensor.numpy", "reads a value of the state")
def through_numpy(t: Tensor, y: Tensor) -> Tensor:
    return torch.from_numpy(2 * y.numpy())


@refused("Tensor.tolist", "reads a value of the state")
def through_lists(t: Tensor, y: Tensor) -> Tensor:
    return torch.tensor(y.tolist())


@refused("aten.nonzero", "reads a value of the state")
def indices_of_positive(t: Tensor, y: Tensor) -> Tensor:
    return y[(y[:, 0] > 0).nonzero()[:, 0]].sum() + y


@refused("aten.index.Tensor", "picks elements by what the state is")
def masked_rows(t: Tensor, y: Tensor) -> Tensor:
    return y + y[y > 0].sum()


@refused("aten.sort", "no rule")
def sorted_features(t: Tensor, y: Tensor) -> Tensor:
    return y.sort(-1).values


@refused("aten.randn_like", "random numbers")
def noise(t: Tensor, y: Tensor) -> Tensor:
    return y + torch.randn_like(y)


@refused("aten.bernoulli_", "random numbers")
def dropout(t: Tensor, y: Tensor) -> Tensor:
    return nn.functional.dropout(y, 0.5)


LAST = torch.zeros(2)
CALLS = torch.zeros(())


@refused("aten.add_.Tensor", "changes CALLS, which the field reads in the same call")
def reading_its_counter(t: Tensor, y: Tensor) -> Tensor:
    CALLS.add_(1)
    return -y * CALLS


@refused("aten.add_.Tensor", "changes CALLS in place")
def reading_before_it_counts(t: Tensor, y: Tensor) -> Tensor:
    slope = -y * CALLS
    CALLS.add_(1)
    return slope


@refused("aten.copy_", "changes LAST in place")
def keeping_a_state(t: Tensor, y: Tensor) -> Tensor:
    LAST.copy_(y[0])
    return -y


@refused("aten.lerp_", "changes LAST in place")
def keeping_a_mean(t: Tensor, y: Tensor) -> Tensor:
    LAST.lerp_(y.mean(0), 0.1)
    return -y


@refused("aten.mul_.Tensor", "changes the state in place")
def changes_the_state(t: Tensor, y: Tensor) -> Tensor:
    return y.mul_(2)


@refused("aten._to_copy", "changes the dtype")
def half_precision(t: Tensor, y: Tensor) -> Tensor:
    return y.half().to(y.dtype)


@refused("aten.lgamma", "no rule")
def operator_without_a_rule(t: Tensor, y: Tensor) -> Tensor:
    return torch.lgamma(y)


@refused("aten.linalg_inv_ex", "more than 3 rows, but has 4")
def inverse_of_a_large_matrix(t: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.inv(y[:, :1, None] * torch.eye(4)).sum((-1, -2))[:, None] * y


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_operator_line_and_reason(name: str) -> None:
    func, operator, reason = REFUSED[name]
    with pytest.raises(CannotCompile, match=re.escape(reason)) as caught:
        trace(func, (3,))
    assert str(caught.value.operator).startswith(operator)
    first = func.__code__.co_firstlineno
    file, number, code = re.fullmatch(r"(.*):(\d+): (.*)", str(caught.value.line)).groups()  # type: ignore[union-attr]
    assert file == __file__
    assert first < int(number) <= first + 4
    assert code in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_tracing_leaves_the_random_numbers_alone(name: str) -> None:
    func = REFUSED[name][0]
    if name in ("noise", "dropout"):
        pytest.skip("the field draws some")
    before = torch.get_rng_state()
    with pytest.raises(CannotCompile):
        trace(func, (3,))
    assert torch.equal(before, torch.get_rng_state())


def test_batch_norm_in_training_mode_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(CannotCompile, match=r"`\.eval\(\)`"):
        trace(lambda t, y: net(y), (3,))
    net.eval()
    assert trace(lambda t, y: net(y), (3,)).program


def test_a_field_that_replaces_its_tensors_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return -y

    with pytest.raises(CannotCompile, match="replaces its own tensor calls"):
        trace(Counting(), (2,))


def test_what_the_trace_cannot_see_is_found_by_comparing() -> None:
    calls: list[int] = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return y * len(calls)

    with pytest.raises(CannotCompile, match="did not see"):
        trace(func, (2,))


def test_the_number_of_rows_must_not_matter() -> None:
    with pytest.raises(CannotCompile, match="number of rows"):
        trace(lambda t, y: y / y.shape[0], (2,))


def test_rows_must_not_change_places() -> None:
    with pytest.raises(CannotCompile, match="another row"):
        trace(lambda t, y: y.flip(0), (2,))


def test_data_of_each_row_must_be_an_argument() -> None:
    data = torch.randn(64, 2)
    with pytest.raises(CannotCompile, match=r"func\(t, y, \*args\)"):
        trace(lambda t, y: y + data, (2,))
    trace(lambda t, y, d: y + d, (2,), args=(data,), per_row=(0,))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bfloat16], ids=str)
def test_states_of_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(CannotCompile, match=r"float32 or torch\.float64"):
        trace(lambda t, y: y, (2,), dtype=dtype)


def test_arguments_of_each_row_have_the_dtype_of_the_state() -> None:
    with pytest.raises(CannotCompile, match="argument 0"):
        trace(lambda t, y, k: y * k, (2,), args=(torch.ones(3, 1, dtype=torch.int64),), per_row=(0,))


@pytest.mark.parametrize("value", [None, 3.0, torch.zeros(7), torch.zeros(2, dtype=torch.complex64)], ids=str)
def test_what_is_no_derivative_is_an_error_of_the_field(value: Any) -> None:
    with pytest.raises(FieldError, match=r"func\(t, y\)"):
        trace(lambda t, y: value, (2,))


def test_a_field_under_inference_mode_is_traced() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    with torch.inference_mode():
        result = trace(lambda t, y: net(y), (2,))
    assert [op.name for op in result.program.ops].count("affine") == 2
