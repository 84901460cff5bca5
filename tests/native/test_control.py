from __future__ import annotations

import math

import pytest

from fastode import _native

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


def test_every_status_has_a_name_and_a_message():
    messages = _native.status_messages()
    assert {code: name for code, (name, _) in messages.items()} == {
        0: "RUNNING",
        1: "FINISHED",
        2: "STEP_UNDERFLOW",
        3: "NON_FINITE",
        4: "TOO_MANY_STEPS",
        5: "EVENT",
    }
    assert all(message for _, message in messages.values())
