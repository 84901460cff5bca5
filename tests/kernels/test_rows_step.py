"""Steps of which every row has its own time, size and fraction of dense output."""

from __future__ import annotations

import pytest
import torch

from fastode.kernels import Engine

from .cases import ROWS, Step, assert_within, shape_id
from .conftest import LOCKSTEP, EngineUnderTest

each_method = pytest.mark.parametrize("method", ["adaptive_heun", "dopri5", "dopri8"])
each_shape = pytest.mark.parametrize("shape", ROWS, ids=shape_id)


@each_shape
@each_method
def test_dense_output_takes_the_fraction_and_the_step_of_each_row(
    rows_engine: EngineUnderTest, method: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    step = Step(method, shape, dtype, rows_engine.device, rows=True)
    answer = step.run(rows_engine)
    assert answer.between.dtype == dtype
    assert_within(answer.between, step.quartic(answer.y1), step.rounding_of_the_quartic(answer.y1))


@each_shape
@each_method
def test_stage_times_of_rows_end_just_before_the_end_of_each(
    rows_engine: EngineUnderTest, method: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    step = Step(method, shape, dtype, rows_engine.device, rows=True)
    end = (step.t + step.dt).to(dtype)
    before = torch.nextafter(end, step.t.to(dtype))
    for time, c in zip(step.run(rows_engine).times, step.tableau.nodes, strict=True):
        assert time.shape == shape[:1] and time.dtype == dtype
        if c == 1:
            assert torch.equal(time, before)
        else:
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(time.double(), step.t + c * step.dt, rtol=2 * eps, atol=2 * eps)


@each_method
def test_the_error_of_rows_is_float64_and_that_of_no_features_is_zero(
    rows_engine: EngineUnderTest, method: str, dtype: torch.dtype
) -> None:
    answer = Step(method, (3, 0), dtype, rows_engine.device, rows=True).run(rows_engine)
    assert answer.err.dtype == torch.float64
    assert answer.err.tolist() == [0.0, 0.0, 0.0]


@each_method
def test_a_row_with_a_nan_leaves_the_other_rows_to_the_bit(
    rows_engine: EngineUnderTest, method: str, dtype: torch.dtype
) -> None:
    step = Step(method, (13, 5), dtype, rows_engine.device, rows=True)
    good = step.run(rows_engine)
    for k in step.k:
        k[4, 2] = torch.nan
    answer = step.run(rows_engine)
    others = torch.arange(13) != 4
    assert bool(answer.err[4].isnan()) and torch.equal(answer.err[others], good.err[others])
    assert torch.equal(answer.y1[others], good.y1[others])
    assert torch.equal(answer.between[others], good.between[others])


@each_method
def test_rows_of_one_step_size_are_a_shared_step(rows_engine: EngineUnderTest, method: str, dtype: torch.dtype) -> None:
    step = Step(method, (13, 5), dtype, rows_engine.device, rows=True)
    step.dt, step.t, step.x = (step.y.new_full((13,), v, dtype=torch.float64) for v in (0.0625, 0.5, 0.3125))
    rows = step.run(rows_engine)
    step.rows, step.dt, step.t, step.x = False, 0.0625, 0.5, 0.3125
    shared = step.run(rows_engine if rows_engine.name in LOCKSTEP else Engine("reference", ""))
    bound = step.unit * (step.y.double().abs() + step.sum(step.tableau.weights, absolute=True))
    assert_within(rows.y1, shared.y1.double(), bound)
    assert_within(rows.between, shared.between.double(), step.rounding_of_the_quartic(shared.y1))


@each_method
def test_no_rows_make_no_step_and_no_error(rows_engine: EngineUnderTest, method: str, dtype: torch.dtype) -> None:
    answer = Step(method, (0, 3), dtype, rows_engine.device, rows=True).run(rows_engine)
    assert answer.y1.shape == answer.between.shape == (0, 3)
    assert answer.err.shape == (0,)


@each_method
def test_rows_do_not_depend_on_the_number_of_threads(
    rows_engine: EngineUnderTest, method: str, dtype: torch.dtype
) -> None:
    step = Step(method, ROWS[-1], dtype, rows_engine.device, rows=True)
    torch.set_num_threads(1)
    one = step.run(rows_engine)
    torch.set_num_threads(2)
    two = step.run(rows_engine)
    assert torch.equal(one.y1, two.y1) and torch.equal(one.between, two.between) and torch.equal(one.err, two.err)


@each_method
def test_a_tape_of_rows_has_the_values_and_the_derivative_of_each_row(
    rows_engine: EngineUnderTest, method: str
) -> None:
    step = Step(method, (5, 2), torch.float64, rows_engine.device, rows=True)
    plain = step.run(rows_engine)
    for x in (step.y, *step.k):
        x.requires_grad_()
    taped = step.run(rows_engine, tape=True)
    torch.testing.assert_close(taped.y1, plain.y1, rtol=1e-14, atol=1e-14)
    gradients = torch.autograd.grad(taped.y1.sum(), (step.y, *step.k), allow_unused=True, materialize_grads=True)
    assert torch.equal(gradients[0], torch.ones(5, 2, dtype=torch.float64, device=rows_engine.device))
    for b, g in zip(step.tableau.weights, gradients[1:], strict=True):
        torch.testing.assert_close(g, (b * step.columns(step.dt)).expand(5, 2), rtol=1e-14, atol=0)
