"""Step-size control: exact values, and the agreement of the native rule with the Python one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastode.controller import Controller, initial_step

native = pytest.importorskip("fastode._native", reason="the native module is not built")

DOPRI5 = Controller(order=5)


@pytest.mark.parametrize(
    ("err", "accept", "dt"),
    [
        (0.0, True, 5.0),
        (5e-324, True, 5.0),
        (1e-12, True, 5.0),
        (1 / 32, True, 0.9),
        (0.9, True, 0.5),
        (math.nextafter(1.0, 0.0), True, 0.5),
        (1.0, True, 0.45),
        (math.nextafter(1.0, 2.0), False, 0.45),
        (32.0, False, 0.225),
        (1e5, False, 0.1),
        (1.7e308, False, 0.1),
        (math.inf, False, 0.1),
    ],
    ids=lambda v: f"{v!r}",
)
def test_the_next_step_is_the_formulas_within_its_bounds(err, accept, dt):
    # err ** (1 / 5) is rounded once by pow, and the quotient and product once each
    assert DOPRI5.control(err, 0.5) == (accept, pytest.approx(dt, rel=4 * 2.0**-52))


def test_a_nan_error_rejects_and_asks_for_the_smallest_step():
    accept, dt = DOPRI5.control(math.nan, 0.5)
    assert not accept
    assert math.isnan(dt)
    assert Controller(order=5, dt_min=0.25).clamp(dt) == 0.25


def test_a_step_at_the_floor_is_accepted_and_one_above_the_ceiling_is_not():
    controller = Controller(order=5, dt_min=0.1, dt_max=1.0)
    assert controller.control(1e9, 0.1) == (True, 0.1)
    assert controller.control(0.0, 1.5) == (False, 1.0)
    assert controller.control(0.0, 1.0) == (True, 1.0)


def test_the_floor_wins_over_the_ceiling():
    assert Controller(order=5, dt_min=2.0, dt_max=1.0).control(5.0, 1.5)[0]


@pytest.mark.parametrize("dt", [math.nan, math.inf, -math.inf], ids=repr)
def test_a_step_that_is_not_finite_becomes_the_smallest(dt):
    assert Controller(order=5, dt_min=0.125).clamp(dt) == 0.125
    assert DOPRI5.clamp(dt) == 0.0


LIMITS = st.builds(
    Controller,
    order=st.integers(1, 8),
    safety=st.floats(0.1, 1.0),
    factor_min=st.floats(0.05, 0.9),
    factor_max=st.floats(1.0, 20.0),
    dt_min=st.sampled_from([0.0, 1e-6, 0.05, 0.5]),
    dt_max=st.sampled_from([math.inf, 0.3, 1.0]),
)
ERRORS = st.one_of(
    st.floats(0, 4, allow_subnormal=True),
    st.floats(0, allow_infinity=True),
    st.sampled_from([0.0, 1.0, math.nextafter(1, 0), math.nextafter(1, 2), 5e-324, 1.7e308, math.inf, math.nan]),
)


def native_control(controller: Controller, err: float, dt: float) -> tuple[bool, float]:
    c = controller
    return native.control(err, dt, float(c.order), c.safety, c.factor_min, c.factor_max, c.dt_min, c.dt_max)


@settings(max_examples=300, deadline=None)
@given(controller=LIMITS, err=ERRORS, dt=st.floats(1e-3, 2.0))
def test_the_native_rule_is_the_python_rule(controller, err, dt):
    accept, expected = controller.control(err, dt)
    found_accept, found = native_control(controller, err, dt)
    assert found_accept == accept
    # the two pow functions may differ in the last place
    assert controller.clamp(found) == pytest.approx(controller.clamp(expected), rel=4 * 2.0**-52)


def same(x: float) -> float:
    return x


def test_the_first_step_is_hairers():
    # d0 = 2, d1 = 4: h0 = 0.005; |f1 - f0| = 1: d2 = 200; h1 = (0.01 / 200) ** (1 / 5)
    probed: list[float] = []
    step = initial_step(2.0, 4.0, lambda h: (probed.append(h), 1.0)[1], 5, same)
    assert probed == [0.005]
    assert step == pytest.approx(min(0.5, (0.01 / 200) ** 0.2), rel=1e-15)


def test_a_tiny_state_or_slope_starts_with_a_millionth():
    assert initial_step(0.0, 1.0, lambda h: 0.0, 5, same) == pytest.approx(1e-4)
    assert initial_step(1.0, 0.0, lambda h: 0.0, 5, same) == pytest.approx(1e-6)


def test_a_nan_in_the_probe_is_ignored():
    assert initial_step(1.0, 1.0, lambda h: math.nan, 1, same) == pytest.approx(0.01)
