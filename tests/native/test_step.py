"""Every kernel of a step against its definition in numpy, for every instruction set of this processor."""

from __future__ import annotations

import numpy as np
import pytest

from .reference import Case, address, rms

SIZES = [(1, 1), (1, 7), (3, 511), (1, 512), (5, 513), (5, 1), (3, 7), (513, 3), (1, 100003), (3, 33333)]
sizes = pytest.mark.parametrize(("rows", "cols"), SIZES, ids=lambda n: str(n))
pytestmark = pytest.mark.usefixtures("target")


@sizes
@pytest.mark.parametrize("stages", [2, 7, 14], ids=lambda s: f"S{s}")
def test_a_stage_is_the_state_plus_the_weighted_slopes(rows, cols, stages, dtype):
    case = Case(dtype, rows, cols, stages)
    step = case.step()
    for i in range(1, stages):
        out = case.empty()
        step.stage(i, case.dt, address(case.k[i - 1]), address(out))
        np.testing.assert_allclose(out, case.state(case.a[i], case.dt), **case.tolerance(4))


@sizes
@pytest.mark.parametrize("stages", [2, 7, 14], ids=lambda s: f"S{s}")
def test_a_stage_of_rows_uses_the_step_size_of_each_row(rows, cols, stages, dtype):
    case = Case(dtype, rows, cols, stages)
    step = case.step()
    for i in range(1, stages):
        out = case.empty()
        step.stage_rows(i, address(case.dts), address(case.k[i - 1]), address(out))
        np.testing.assert_allclose(out, case.state(case.a[i], case.dts), **case.tolerance(4))


@sizes
@pytest.mark.parametrize("stages", range(2, 15), ids=lambda s: f"S{s}")
def test_finish_writes_the_new_state_and_returns_the_rms_of_the_scaled_error(rows, cols, stages, dtype):
    case = Case(dtype, rows, cols, stages)
    step, y1 = case.step(), case.empty()
    case.run_stages(step)
    err = step.finish(case.dt, address(case.k[-1]), address(y1), True)
    np.testing.assert_allclose(y1, case.state(case.b, case.dt), **case.tolerance(4))
    # The elements' rounding errors are absolute, the size of the largest term over the smallest tolerance.
    bound = case.tolerance(case.dt * 3 / case.atol)["atol"]
    np.testing.assert_allclose(err, rms(case.scaled_error(y1, case.dt)), rtol=1e-5, atol=bound)


@sizes
def test_finish_of_a_given_state_leaves_it_as_it_is(rows, cols, dtype):
    case = Case(dtype, rows, cols, 7)
    step, before = case.step(), case.y1.copy()
    case.run_stages(step)
    err = step.finish(case.dt, address(case.k[-1]), address(case.y1), False)
    np.testing.assert_array_equal(case.y1, before)
    np.testing.assert_allclose(err, rms(case.scaled_error(case.y1, case.dt)), rtol=1e-4)


@sizes
@pytest.mark.parametrize("write", [True, False], ids=["written", "given"])
def test_finish_of_rows_gives_the_norm_of_each_row(rows, cols, write, dtype):
    case = Case(dtype, rows, cols, 7)
    step, y1, err = case.step(), case.empty() if write else case.y1, np.full(rows, np.nan)
    case.run_stages(step)
    step.finish_rows(address(case.dts), address(case.k[-1]), address(y1), write, address(err))
    if write:
        np.testing.assert_allclose(y1, case.state(case.b, case.dts), **case.tolerance(4))
    bound = case.tolerance(0.2 * 3 / case.atol)["atol"]
    np.testing.assert_allclose(err, rms(case.scaled_error(y1, case.dts), axis=1), rtol=1e-5, atol=bound)


@sizes
def test_the_scaled_error_keeps_its_sign_and_agrees_with_the_norms(rows, cols, dtype):
    case = Case(dtype, rows, cols, 7)
    step, out, y1 = case.step(), case.empty(), case.empty()
    case.run_stages(step)
    step.scaled_error(case.dt, address(case.k[-1]), address(y1), True, address(out))
    bound = case.tolerance(case.dt * 3 / case.atol)["atol"]
    np.testing.assert_allclose(out, case.scaled_error(y1, case.dt), rtol=1e-5, atol=bound)
    assert step.max_error(case.dt, address(case.k[-1]), address(y1), False) == np.abs(out).max()
    norm = step.finish(case.dt, address(case.k[-1]), address(y1), False)
    np.testing.assert_allclose(norm, rms(out.astype(np.float64)), rtol=1e-13)


@sizes
def test_the_scaled_error_of_rows_uses_the_step_size_of_each_row(rows, cols, dtype):
    case = Case(dtype, rows, cols, 7)
    step, out = case.step(), case.empty()
    case.run_stages(step)
    step.scaled_error_rows(address(case.dts), address(case.k[-1]), address(case.y1), False, address(out))
    bound = case.tolerance(0.2 * 3 / case.atol)["atol"]
    np.testing.assert_allclose(out, case.scaled_error(case.y1, case.dts), rtol=1e-5, atol=bound)


@sizes
def test_tolerances_may_differ_from_element_to_element(rows, cols, dtype):
    case = Case(dtype, rows, cols, 4)
    rng = np.random.default_rng(1)
    rtol, atol = (rng.uniform(1e-3, 1e-2, (rows, cols)).astype(dtype) for _ in range(2))
    step, out = case.step(), case.empty()
    step.tolerance_arrays(address(rtol), address(atol))
    case.run_stages(step)
    step.scaled_error(case.dt, address(case.k[-1]), address(case.y1), False, address(out))
    case.rtol, case.atol = rtol.astype(np.float64), atol.astype(np.float64)
    np.testing.assert_allclose(
        out, case.scaled_error(case.y1, case.dt), rtol=1e-5, atol=case.tolerance(0.2 / 1e-3)["atol"]
    )


@sizes
@pytest.mark.parametrize("stages", [2, 4, 7, 14], ids=lambda s: f"S{s}")
def test_dense_output_is_the_quartic_through_both_ends_and_the_middle(rows, cols, stages, dtype):
    case = Case(dtype, rows, cols, stages)
    step = case.step()
    case.run_stages(step)
    step.finish(case.dt, address(case.k[-1]), address(case.y1), False)
    bound = case.tolerance(4)
    # The definition's own rounding: its terms are up to 100 times as large as states of size 5.
    bound["atol"] += 100 * 5 * float(np.finfo(np.float64).eps)
    for x in (0.0, 0.1, 0.5, 0.7, 1.0):
        out = case.empty()
        step.interpolate(x, case.dt, address(case.y1), address(out))
        np.testing.assert_allclose(out, case.interpolate(x, case.dt), **bound)
    out = case.empty()
    step.interpolate_rows(address(case.x), address(case.dts), address(case.y1), address(out))
    np.testing.assert_allclose(out, case.interpolate(case.x, case.dts), **bound)


@sizes
def test_dense_output_meets_both_ends_exactly(rows, cols, dtype):
    case = Case(dtype, rows, cols, 7)
    step = case.step()
    case.run_stages(step)
    step.finish(case.dt, address(case.k[-1]), address(case.y1), False)
    for x, end in ((0.0, case.y), (1.0, case.y1)):
        out, by_row = case.empty(), case.empty()
        step.interpolate(x, case.dt, address(case.y1), address(out))
        np.testing.assert_array_equal(out, end)
        xs = np.full(rows, x)
        step.interpolate_rows(address(xs), address(case.dts), address(case.y1), address(by_row))
        np.testing.assert_array_equal(by_row, end)


@sizes
def test_rows_that_share_a_step_size_equal_the_lockstep_kernels_to_the_bit(rows, cols, dtype):
    case = Case(dtype, rows, cols, 7)
    step, lockstep, by_row = case.step(), case.empty(), case.empty()
    dts = np.full(rows, case.dt)
    case.run_stages(step)
    step.stage(6, case.dt, address(case.k[5]), address(lockstep))
    step.stage_rows(6, address(dts), address(case.k[5]), address(by_row))
    np.testing.assert_array_equal(lockstep, by_row)
    step.scaled_error(case.dt, address(case.k[-1]), address(case.y1), False, address(lockstep))
    step.scaled_error_rows(address(dts), address(case.k[-1]), address(case.y1), False, address(by_row))
    np.testing.assert_array_equal(lockstep, by_row)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize("where", [0, 6, 511, 700], ids=lambda n: f"element{n}")
def test_nan_and_infinity_in_a_slope_reach_the_state_and_the_norm(bad, where, dtype):
    case = Case(dtype, 1, 701, 7)
    case.k[3].flat[where] = bad
    step, y1 = case.step(), case.empty()
    case.run_stages(step)
    for norm in (step.finish, step.max_error):
        err = norm(case.dt, address(case.k[-1]), address(y1), True)
        assert not np.isfinite(y1.flat[where])
        assert np.isfinite(np.delete(y1.ravel(), where)).all()
        assert np.isnan(err)


def test_nan_in_the_new_state_alone_makes_the_norm_nan(dtype):
    case = Case(dtype, 3, 50, 7)
    case.y1[1, 3] = np.nan
    step, err = case.step(), np.zeros(3)
    case.run_stages(step)
    assert np.isnan(step.finish(case.dt, address(case.k[-1]), address(case.y1), False))
    assert np.isnan(step.max_error(case.dt, address(case.k[-1]), address(case.y1), False))
    step.finish_rows(address(case.dts), address(case.k[-1]), address(case.y1), False, address(err))
    np.testing.assert_array_equal(np.isnan(err), [False, True, False])


def test_a_slope_of_weight_zero_cannot_spread_its_nan(dtype):
    case = Case(dtype, 1, 20, 7)
    case.k[1][:] = np.nan
    step, out = case.step(), case.empty()
    step.stage(1, case.dt, address(case.k[0]), address(out))
    step.stage(2, case.dt, address(case.k[1]), address(out))
    assert np.isfinite(out).all()


def test_stage_times_are_in_the_precision_of_the_data_and_end_just_before_the_step_does(dtype):
    case = Case(dtype, 1, 3, 7)
    for t0, dt in ((0.1, 0.3), (0.1, -0.3)):
        out = np.full(7, np.nan, dtype)
        case.step().times(t0, dt, t0 + dt, address(out))
        expected = dtype(t0) + np.array(case.c, dtype) * dtype(dt)
        expected[-1] = np.nextafter(dtype(t0 + dt), dtype(-np.copysign(np.inf, dt)))
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("rows", "cols"), [(0, 5), (4, 0), (0, 0)], ids=lambda n: str(n))
def test_an_empty_state_is_accepted_with_error_zero(rows, cols, dtype):
    case = Case(dtype, rows, cols, 4)
    step, err = case.step(), np.full(max(rows, 1), np.nan)
    for i in range(1, 4):
        step.stage(i, 0.1, 0, 0)
    assert step.finish(0.1, 0, 0, True) == 0.0
    step.finish_rows(address(case.dts) if rows else 0, 0, 0, True, address(err))
    np.testing.assert_array_equal(err[:rows], 0.0)


def test_a_method_without_error_estimate_only_writes_the_state(dtype):
    case = Case(dtype, 2, 5, 1)
    case.b_error, case.mid, case.b = [], [], [1.0]
    step, y1 = case.step(), case.empty()
    assert step.finish(case.dt, address(case.k[0]), address(y1), True) == 0.0
    np.testing.assert_allclose(y1, case.state([1.0], case.dt), **case.tolerance(4))
    with pytest.raises(ValueError, match="no dense output"):
        step.interpolate(0.5, case.dt, address(y1), address(case.empty()))
