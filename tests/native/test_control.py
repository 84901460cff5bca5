from __future__ import annotations

import math

import numpy as np
import pytest

from fastode import _native

from .reference import address

INF = math.inf
LIMITS = {"order": 5.0, "safety": 0.9, "factor_min": 0.2, "factor_max": 10.0, "dt_min": 0.0, "dt_max": INF}


def control(err: float, dt: float = 0.5, **limits: float) -> tuple[bool, float]:
    return _native.control(err, dt, *{**LIMITS, **limits}.values())


def test_an_error_of_exactly_one_is_accepted_and_the_next_above_it_is_not():
    assert control(1.0)[0] is True
    assert control(math.nextafter(1.0, 2.0))[0] is False


@pytest.mark.parametrize(
    ("err", "factor"),
    [(0.0, 10.0), (1e-12, 10.0), (0.5, 0.9 / 0.5**0.2), (0.999, 1.0), (1.0, 0.9), (32.0, 0.45), (1e9, 0.2)],
    ids=lambda x: f"{x:g}",
)
def test_the_step_grows_and_shrinks_between_the_limits(err, factor):
    assert control(err) == (err <= 1, pytest.approx(0.5 * factor, rel=1e-15))


def test_an_infinite_error_shrinks_and_a_nan_error_gives_a_nan_step():
    assert control(math.inf) == (False, 0.1)
    accept, dt = control(math.nan)
    assert accept is False
    assert math.isnan(dt)


def test_a_step_above_the_longest_is_refused_and_one_at_the_shortest_always_taken():
    assert control(0.1, 2.0, dt_max=1.0) == (False, 1.0)
    assert control(50.0, 0.01, dt_min=0.01) == (True, 0.01)


class Rows:
    def __init__(self, t, dt, err, t_end, status=None):
        n = len(t)
        self.t, self.dt, self.err, self.t_end = (np.array(x, np.float64) for x in (t, dt, err, t_end))
        self.accept = np.full(n, 77, np.uint8)
        self.status = np.array(status or [0] * n, np.int32)
        self.n_accepted, self.n_rejected = np.zeros(n, np.int64), np.zeros(n, np.int64)

    def control(self, **limits: float) -> Rows:
        arrays = (self.t, self.dt, self.err, self.t_end, self.accept, self.status)
        counters = (self.n_accepted, self.n_rejected)
        pointers = [address(x) for x in (*arrays, *counters)]
        _native.control_rows(len(self.t), *pointers, *{**LIMITS, **limits}.values())
        return self


def test_every_row_is_controlled_as_if_it_were_alone():
    rng = np.random.default_rng(0)
    t, dt, err = rng.uniform(0, 1, 1000), rng.uniform(0.01, 0.1, 1000), 10 ** rng.uniform(-4, 2, 1000)
    rows = Rows(t, dt, err, np.full(1000, 9.0)).control()
    for r in range(1000):
        accept, step = control(err[r], dt[r])
        assert (rows.accept[r], rows.dt[r], rows.t[r]) == (accept, step, t[r] + dt[r] * accept)
    np.testing.assert_array_equal(rows.n_accepted, rows.accept)
    np.testing.assert_array_equal(rows.n_rejected, 1 - rows.accept)
    assert not rows.status.any()


def test_time_may_run_backwards_in_one_row_and_forwards_in_another():
    rows = Rows([0.0, 1.0], [0.25, -0.25], [1.0, 1.0], [1.0, 0.0]).control()
    np.testing.assert_array_equal(rows.t, [0.25, 0.75])
    np.testing.assert_array_equal(rows.dt, [0.225, -0.225])


def test_a_row_that_reaches_or_passes_its_end_is_finished():
    rows = Rows([0.75, 0.9, 0.0, 2.0], [0.25, 0.25, -0.5, 0.1], [0.5] * 4, [1.0, 1.0, -0.25, 2.0]).control()
    np.testing.assert_array_equal(rows.status, [1, 1, 1, 1])
    np.testing.assert_array_equal(rows.accept, [1, 1, 1, 0])
    np.testing.assert_array_equal(rows.n_accepted, [1, 1, 1, 0])


def test_a_step_too_small_to_change_the_time_is_an_underflow():
    rows = Rows([1.0], [1e-16], [5.0], [2.0]).control()
    assert (rows.status[0], rows.t[0], rows.n_rejected[0]) == (2, 1.0, 1)


def test_a_nan_error_stops_its_row_and_keeps_the_step_that_failed():
    rows = Rows([0.0, 0.0], [0.1, 0.1], [np.nan, 0.5], [1.0, 1.0]).control()
    np.testing.assert_array_equal(rows.status, [3, 0])
    np.testing.assert_array_equal(rows.accept, [0, 1])
    assert (rows.t[0], rows.dt[0], rows.n_rejected[0]) == (0.0, 0.1, 1)


@pytest.mark.parametrize("status", [1, 2, 3])
def test_a_row_that_has_stopped_is_left_alone(status):
    rows = Rows([0.5], [0.1], [0.5], [1.0], [status]).control()
    assert (rows.t[0], rows.dt[0], rows.accept[0], rows.status[0]) == (0.5, 0.1, 0, status)
    assert rows.n_accepted[0] == rows.n_rejected[0] == 0


def test_no_rows_need_no_memory_and_some_rows_do():
    _native.control_rows(0, *[0] * 8, *LIMITS.values())
    with pytest.raises(ValueError, match="`t` is a null pointer for 2 elements"):
        _native.control_rows(2, *[0] * 8, *LIMITS.values())


def test_every_status_has_a_name_and_a_message():
    messages = _native.status_messages()
    assert {code: name for code, (name, _) in messages.items()} == {
        0: "RUNNING",
        1: "FINISHED",
        2: "STEP_UNDERFLOW",
        3: "NON_FINITE",
    }
    assert all(message for _, message in messages.values())
