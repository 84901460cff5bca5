"""The step kernels beside their references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastode.controller import Controller
from fastode.kernels.reference import combine as reference_combine
from fastode.kernels.reference import interpolate, rms_rows, scaled_error
from fastode.kernels.reference import stage as reference_stage
from fastode.kernels.triton import DeviceState, PartialSums, Tolerances, commit, finish, stage
from fastode.kernels.triton.combine import combine
from fastode.methods import lookup

#: rows and the shape of each: one row, one feature, odd sizes, several tiles, no rows, no features
SHAPES = [(1, 7), (5, 1), (13, 5), (3, 3, 2), (1, 1500), (3, 1500), (1, 5000), (300, 3), (0, 3), (3, 0)]
ADAPTIVE = ["adaptive_heun", "bosh3", "dopri5", "tsit5", "dopri8"]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


class Case:
    """A step of rows from random numbers."""

    def __init__(self, method: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.tableau = lookup(method)
        self.shape = shape
        self.y, self.y1, *self.k = (
            torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2 + self.tableau.stages)
        )
        self.dt = (0.01 + 0.1 * torch.rand(shape[0])).double() * torch.tensor([1.0, -1.0]).repeat(shape[0])[: shape[0]]
        self.unit = torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype).eps * 4 * self.tableau.stages
        if dtype.itemsize == 2:
            self.unit += torch.finfo(dtype).eps

    def state(self, due: Tensor) -> DeviceState:
        rows = self.shape[0]
        zero = torch.zeros(rows, dtype=torch.float64)
        none = zero.new_empty(rows, 0)
        return DeviceState.begin(zero, zero + 1, none, due, self.tableau.stages, self.y.dtype, Controller(order=5), 1e9)


def close(found: Tensor, expected: Tensor, unit: float) -> None:
    scale = max(float(expected.double().abs().max()), 1.0) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=unit, atol=unit * scale)


@each_shape
@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
def test_stages_are_the_references(method: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    case = Case(method, shape, dtype)
    for i in (1, case.tableau.stages - 1):
        weights = case.tableau.matrix[i]
        found = stage(case.y, case.dt, case.k[:i], weights)
        assert found.dtype == dtype
        close(found, reference_stage(case.y, case.dt, case.k[:i], weights), case.unit)
        # as a backward pass needs it
        increment = reference_stage(torch.zeros_like(case.y), case.dt, case.k[:i], weights)
        close(stage(None, case.dt, case.k[:i], weights), increment, case.unit)


@each_shape
def test_combinations_are_the_references(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    case = Case("dopri5", shape, dtype)
    for weights in ([0.3], [0.0, 0.0], [-1.5, 0.0, 1e-3, 2.0, 0.7, -0.1, 4.0]):
        vectors = case.k[: len(weights)]
        base = case.y.double()
        exact = reference_combine(base, [v.double() for v in vectors], weights).to(dtype)
        found = combine(case.y, vectors, weights)
        assert found.dtype == dtype and found is not case.y
        close(found, exact, 4 * case.unit if dtype.itemsize > 2 else 1e-2)


def test_one_step_size_serves_all_rows(dtype: torch.dtype) -> None:
    case = Case("dopri5", (13, 5), dtype)
    one = torch.tensor([0.25], dtype=torch.float64)
    weights = case.tableau.matrix[3]
    close(stage(case.y, one, case.k[:3], weights), reference_stage(case.y, 0.25, case.k[:3], weights), case.unit)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_states_of_16_bits_are_added_up_in_float32(kind: torch.dtype) -> None:
    case = Case("dopri5", (7, 9), kind)
    exact = reference_stage(case.y.double(), case.dt, [k.double() for k in case.k[:5]], case.tableau.matrix[5])
    found = stage(case.y, case.dt, case.k[:5], case.tableau.matrix[5])
    assert found.dtype == kind
    # rounded once, at the end
    close(found, exact, torch.finfo(kind).eps)
    partial = PartialSums.of((case.y,), 7)
    finish(case.y, found, False, case.dt, case.k, case.tableau.weights, case.tableau.error_weights,
           Tolerances((case.y,), [1e-2], [1e-3]).pairs[0], partial, 0)  # fmt: skip
    ratio = scaled_error(case.y.double(), found.double(), case.dt, [k.double() for k in case.k],
                         case.tableau.error_weights, 1e-2, 1e-3)  # fmt: skip
    close(partial.sums.sum(0), ratio.pow(2).sum(1), 1e-3)


@each_shape
@pytest.mark.parametrize("write", [False, True], ids=["given", "written"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_error_norm_of_rows_is_the_references(
    method: str, write: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    case = Case(method, shape, dtype)
    partial = PartialSums.of((case.y,), shape[0])
    partial.sums.fill_(torch.nan)
    y1 = torch.full_like(case.y, torch.nan) if write else case.y1
    finish(case.y, y1, write, case.dt, case.k, case.tableau.weights, case.tableau.error_weights,
           Tolerances((case.y,), [1e-3], [1e-4]).pairs[0], partial, 0)  # fmt: skip
    if write:
        close(y1, reference_stage(case.y, case.dt, case.k, case.tableau.weights), case.unit)
    if not case.y.numel():
        return
    ratio = scaled_error(case.y, y1, case.dt, case.k, case.tableau.error_weights, 1e-3, 1e-4)
    found = (partial.sums.sum(0) / partial.elements).sqrt()
    # cancellation among the slopes weighs what rounding does
    size = scaled_error(case.y, y1, case.dt.abs(), [k.abs() for k in case.k],
                        [abs(e) for e in case.tableau.error_weights], 1e-3, 1e-4)  # fmt: skip
    torch.testing.assert_close(found, rms_rows(ratio).double(), rtol=1e-5 if dtype == torch.float32 else 1e-12,
                               atol=case.unit * float(rms_rows(size).max()))  # fmt: skip


def test_tolerances_of_every_element_are_read(dtype: torch.dtype) -> None:
    case = Case("dopri5", (5, 3), dtype)
    rtol, atol = torch.rand(5, 1), torch.rand(3)
    partial = PartialSums.of((case.y,), 5)
    finish(case.y, case.y1, False, case.dt, case.k, case.tableau.weights, case.tableau.error_weights,
           Tolerances((case.y,), [rtol], [atol]).pairs[0], partial, 0)  # fmt: skip
    ratio = scaled_error(case.y, case.y1, case.dt, case.k, case.tableau.error_weights, rtol.to(dtype), atol.to(dtype))
    torch.testing.assert_close(partial.sums.sum(0), ratio.double().pow(2).sum(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_leaves_the_others(bad: float, dtype: torch.dtype) -> None:
    case = Case("dopri5", (9, 3), dtype)
    partial = PartialSums.of((case.y,), 9)
    arguments = (case.dt, case.k, case.tableau.weights, case.tableau.error_weights)
    tolerance = Tolerances((case.y,), [1e-3], [1e-4]).pairs[0]
    finish(case.y, case.y1, False, *arguments, tolerance, partial, 0)
    before = partial.sums.clone()
    for k in case.k:
        k[4, 1] = bad
    case.y1[4, 1] = bad
    finish(case.y, case.y1, False, *arguments, tolerance, partial, 0)
    others = torch.arange(9) != 4
    assert torch.equal(partial.sums[:, others], before[:, others])
    assert not bool(partial.sums[0, 4].isfinite())


def test_a_method_without_an_estimate_has_error_zero_or_nan(dtype: torch.dtype) -> None:
    case = Case("rk4", (4, 3), dtype)
    case.y1[2, 0] = torch.inf
    partial = PartialSums.of((case.y,), 4)
    finish(case.y, case.y1, False, case.dt, case.k, case.tableau.weights, [],
           Tolerances((case.y,), [1e-3], [1e-4]).pairs[0], partial, 0)  # fmt: skip
    assert partial.sums.isnan().squeeze(0).tolist() == [False, False, True, False]
    assert float(partial.sums.nan_to_num().abs().max()) == 0


@each_shape
@pytest.mark.parametrize("method", ADAPTIVE)
def test_accepted_rows_move_on_and_their_outputs_are_the_references(
    method: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    case = Case(method, shape, dtype)
    rows, tableau = shape[0], case.tableau
    due = torch.tensor([0.0, 0.3, 0.7, 1.0, torch.nan], dtype=torch.float64).repeat(rows, 1)
    times = torch.rand(rows).double() - 0.5
    due = times[:, None] + case.dt[:, None] * due
    state = case.state(due)
    accept = torch.arange(rows) % 3 != 1
    state.count("accept").copy_(accept)
    state.count("first_output").copy_(torch.arange(rows) % 2)
    state.count("next_output").copy_(torch.where(accept, 1 + torch.arange(rows) % 4, torch.arange(rows) % 2))
    state.real("tried_t").copy_(times)
    state.real("tried_dt").copy_(case.dt)
    state.real("t").copy_(torch.where(accept, due[:, 3], times))
    y, y1, k = case.y.clone(), case.y1, [p.clone() for p in case.k]
    out = torch.full((rows, 4, *shape[1:]), torch.nan, dtype=dtype)
    commit(y, y1, k, state, out, tableau.mid_weights)
    for i in range(4):
        x = (due[:, i] - times) / case.dt
        # the end of a step is its new state, to the bit
        between = y1 if i == 3 else interpolate(case.y, y1, case.dt, case.k, tableau.mid_weights, x)
        reached = (state.count("first_output") <= i) & (i < state.count("next_output")) & accept
        close(out[reached, i], between[reached], case.unit * (20 if i < 3 else 0))
        assert bool(out[~reached, i].isnan().all())
    where = accept.view(-1, *[1] * (len(shape) - 1))
    assert torch.equal(y, torch.where(where, y1, case.y))
    assert torch.equal(k[0], torch.where(where, case.k[-1], case.k[0]))
    for mine, original in zip(k[1:], case.k[1:], strict=True):
        assert torch.equal(mine, original)


def test_a_rejected_step_writes_nothing(dtype: torch.dtype) -> None:
    case = Case("dopri5", (5, 3), dtype)
    state = case.state(torch.zeros(5, 2, dtype=torch.float64))
    y, k = case.y.clone(), [p.clone() for p in case.k]
    out = torch.full((5, 1, 3), torch.nan, dtype=dtype)
    commit(y, case.y1, k, state, out, case.tableau.mid_weights)
    assert torch.equal(y, case.y) and torch.equal(k[0], case.k[0]) and bool(out.isnan().all())


def test_states_at_the_starts_of_accepted_steps_are_kept(dtype: torch.dtype) -> None:
    case = Case("dopri5", (1, 7), dtype)
    state = case.state(torch.full((1, 1), torch.nan, dtype=torch.float64))
    kept = torch.full((4, 1, 7), torch.nan, dtype=dtype)
    log = torch.full((4, 5), torch.nan, dtype=torch.float64)
    state.count("n_accepted").fill_(6)
    for accept, filled in ((0, 0), (1, 1)):
        state.count("accept").fill_(accept)
        commit(
            case.y.clone(),
            case.y1,
            [p.clone() for p in case.k],
            state,
            kept[None, :0],
            case.tableau.mid_weights,
            None,
            (kept, log, 3),
        )
        assert int((~kept.isnan()).any(dim=2).sum()) == filled
    assert torch.equal(kept[2], case.y)
    assert bool((log[2] == 0).all()) and bool(log[[0, 1, 3]].isnan().all())
    assert log[2].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0] and bool(log[[0, 1, 3]].isnan().all())
