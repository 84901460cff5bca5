"""The controller of rows: the rule of one shared step, the same in both engines, and what stops a row."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastode.controller import Controller
from fastode.kernels.native.control import RowControl as native
from fastode.kernels.reference.control import RowControl as reference
from fastode.kernels.reference.control import power
from fastode.kernels.row_state import (
    FINISHED,
    NON_FINITE,
    RUNNING,
    STEP_UNDERFLOW,
    TOO_MANY_STEPS,
    RowState,
)

ERRORS = [0.0, 5e-324, 1e-30, 1e-8, 0.5, 0.999999, 1.0, 1.0000001, 2.0, 1e8, 1e300, math.inf, math.nan]
CONTROLLERS = {
    "default": Controller(order=5),
    "limits": Controller(order=3, dt_min=0.05, dt_max=0.4),
    "cautious": Controller(order=2, safety=0.5, factor_min=0.1, factor_max=3.0),
    "PI": Controller(order=5, filter=(0.7, -0.4, 0.0)),
    "PID": Controller(order=4, filter=(0.58, -0.21, 0.1)),
}
Engine = type[native] | type[reference]
each_engine = pytest.mark.parametrize("engine", [native, reference], ids=["native", "reference"])
each_controller = pytest.mark.parametrize("controller", CONTROLLERS.values(), ids=CONTROLLERS)


def rows(size: float | list[float], err: list[float], t0: float = 0.0, t_end: float = 1e6) -> RowState:
    n = len(err)
    state = RowState.begin(
        torch.full((n,), t0, dtype=torch.float64),
        torch.full((n,), t_end, dtype=torch.float64),
        torch.as_tensor(size, dtype=torch.float64).expand(n),
    )
    state.err.copy_(torch.tensor(err, dtype=torch.float64))
    return state


@each_engine
@pytest.mark.parametrize("name", ["default", "limits", "cautious"])
@pytest.mark.parametrize("size", [0.05, 0.3, 0.4])
def test_rows_and_a_shared_step_decide_alike_but_for_steps_only_just_accepted(
    engine: Engine, name: str, size: float
) -> None:
    controller = CONTROLLERS[name]
    errors = [*ERRORS[:-1], *torch.rand(50, dtype=torch.float64).mul(3).tolist()]
    state = rows(size, errors, t0=1e6, t_end=0.0)
    engine(state, controller, 1000).start()
    assert (state.dt == -size).all()
    assert engine(state, controller, 1000).control()[0] == len(errors)
    for i, e in enumerate(errors):
        accept, following = controller.control(e, size)
        if 0 < e < 1:  # the shared step's factor is at least 1 then
            factor = max(
                controller.factor_min, min(controller.factor_max, controller.safety * e ** (-1 / controller.order))
            )
            following = controller.clamp(size * factor)
        assert bool(state.accept[i]) == accept
        assert float(state.t[i]) == (1e6 - size if accept else 1e6)
        assert float(state.size[i]) == pytest.approx(following, rel=1e-14)
        assert float(state.dt[i]) == -float(state.size[i])


@given(
    controller=st.sampled_from(list(CONTROLLERS.values())),
    cases=st.lists(
        st.tuples(
            st.one_of(st.floats(0, 4), st.sampled_from(ERRORS)),
            st.floats(1e-17, 10.0),
            st.floats(-5, 5),
            st.floats(-5, 5),
            st.sampled_from([RUNNING, RUNNING, FINISHED, STEP_UNDERFLOW]),
        ),
        min_size=1,
        max_size=17,
    ),
    max_steps=st.integers(1, 4),
)
@settings(max_examples=200, deadline=None)
def test_both_engines_control_alike_and_each_row_as_if_alone(
    controller: Controller, cases: list[tuple[float, float, float, float, int]], max_steps: int
) -> None:
    err, size, t0, t_end, status = zip(*cases, strict=True)

    def begun(which: slice) -> RowState:
        t = torch.tensor(t0[which], dtype=torch.float64)
        state = RowState.begin(
            t, torch.tensor(t_end[which], dtype=torch.float64), torch.tensor(size[which], dtype=torch.float64)
        )
        state.err.copy_(torch.tensor(err[which], dtype=torch.float64))
        state.status.copy_(torch.tensor(status[which]))
        return state

    def run(engine: Engine, state: RowState) -> RowState:
        engine(replace(state, status=state.status), controller, max_steps).start()
        for _ in range(3):
            running = engine(state, controller, max_steps).control()[0]
            assert running == int((state.status == RUNNING).sum())
        return state

    everything = slice(None)
    stopped = [i for i, s in enumerate(status) if s != RUNNING]
    a, b = (begun(everything) for _ in range(2))
    for state in (a, b):  # rows that have stopped are not started
        state.status.fill_(RUNNING)
        state.t_end[stopped] = state.t[stopped]
    run(native, a)
    run(reference, b)
    for f in fields(RowState):
        # the two pow functions may differ in the last place
        torch.testing.assert_close(
            getattr(a, f.name), getattr(b, f.name), rtol=1e-13, atol=0, equal_nan=True, msg=f.name
        )
    for i in range(len(cases)):
        own = begun(slice(i, i + 1))
        own.status.fill_(RUNNING)
        if i in stopped:
            own.t_end.copy_(own.t)
        run(native, own)
        for f in fields(RowState):
            assert torch.equal(getattr(own, f.name)[0].nan_to_num(), getattr(a, f.name)[i].nan_to_num())


@each_engine
def test_a_row_ends_exactly_at_its_end_and_stays_there(engine: Engine) -> None:
    state = rows(0.75, [0.5], t0=0.1, t_end=0.7)
    controller = CONTROLLERS["default"]
    engine(state, controller, 10).start()
    assert (float(state.t1[0]), float(state.dt[0])) == (0.7, 0.7 - 0.1)
    assert engine(state, controller, 10).control()[0] == 0
    assert (float(state.t[0]), int(state.status[0]), float(state.dt[0])) == (0.7, FINISHED, 0.0)
    state.due.fill_(9.0)
    before = [getattr(state, f.name).clone() for f in fields(RowState)]
    engine(state, controller, 10).control()
    assert not state.accept.any()
    state.accept.fill_(True)
    assert all(torch.equal(a, getattr(state, f.name)) for a, f in zip(before, fields(RowState), strict=True))


@each_engine
@pytest.mark.parametrize(
    ("err", "status"), [(math.nan, NON_FINITE), (500.0, STEP_UNDERFLOW), (math.inf, STEP_UNDERFLOW)], ids=str
)
def test_a_row_whose_steps_never_pass_stops_with_the_reason(engine: Engine, err: float, status: int) -> None:
    state = rows([0.1, 0.1], [err, 0.5], t0=1.0, t_end=1e9)
    controller = CONTROLLERS["default"]
    engine(state, controller, 1000).start()
    for _ in range(60):
        engine(state, controller, 1000).control()
    assert state.status.tolist() == [status, RUNNING]
    assert (float(state.t[0]), int(state.n_accepted[0])) == (1.0, 0)
    assert 15 < int(state.n_rejected[0]) < 60
    assert int(state.n_accepted[1]) == 60


@each_engine
def test_steps_are_counted_and_limited(engine: Engine) -> None:
    state = rows(0.1, [0.5, 3.0])
    controller = CONTROLLERS["default"]
    engine(state, controller, 3).start()
    for _ in range(5):
        engine(state, controller, 3).control()
    assert state.status.tolist() == [TOO_MANY_STEPS] * 2
    assert (state.n_accepted.tolist(), state.n_rejected.tolist()) == ([3, 0], [0, 3])


@each_engine
@pytest.mark.parametrize("size", [math.nan, 0.0, -1.0])
def test_a_first_step_that_is_no_size_stops_the_row(engine: Engine, size: float) -> None:
    state = rows([size, 0.1], [0.5, 0.5])
    engine(state, CONTROLLERS["default"], 3).start()
    assert state.status.tolist() == [NON_FINITE, RUNNING]


@each_engine
@each_controller
def test_a_rejected_step_is_followed_by_a_smaller_one(engine: Engine, controller: Controller) -> None:
    controller = replace(controller, dt_min=0.0)
    state = rows(0.3, [1.0000001, 1.5, 1e9])
    state.history.copy_(torch.tensor([[1e6, 1e-10], [1e-10, 1e6], [1e6, 1e6]], dtype=torch.float64))
    engine(state, controller, 100).start()
    before = state.dt.clone()
    engine(state, controller, 100).control()
    assert (state.dt < 0.95 * before).all()


@each_engine
def test_a_filter_weighs_the_errors_of_earlier_steps(engine: Engine) -> None:
    controller = CONTROLLERS["PID"]
    state = rows(0.1, [0.5])
    engine(state, controller, 100).start()
    sizes = []
    for err in (0.5, 0.25, 0.125):
        before = float(state.dt[0])
        state.err.fill_(err)
        engine(state, controller, 100).control()
        sizes.append(float(state.size[0]) / before)
    errors = [1.0, 1.0, 0.5, 0.25, 0.125]
    for i, found in enumerate(sizes):
        e2, e1, e0 = errors[i : i + 3]
        expected = 0.9 * e0 ** (-0.58 / 4) * e1 ** (0.21 / 4) * e2 ** (-0.1 / 4)
        assert found == pytest.approx(expected, rel=1e-13)


@each_engine
def test_steps_end_on_stops_and_go_on_with_the_size_from_before_the_cut(engine: Engine) -> None:
    controller = Controller(order=5, factor_max=2.0)
    t0, t_end = torch.tensor([0.0, 0.0], dtype=torch.float64), torch.tensor([10.0, -10.0], dtype=torch.float64)
    stops = torch.tensor([[1.0, 1.25], [-0.5, -10.0]], dtype=torch.float64)
    state = RowState.begin(t0, t_end, torch.full((2,), 2.0, dtype=torch.float64), stops)
    engine(state, controller, 100).start()
    assert (state.t1.tolist(), state.dt.tolist()) == ([1.0, -0.5], [1.0, -0.5])
    state.err.fill_(0.9**5)  # the factor is 1, or more where the step was cut
    engine(state, controller, 100).control()
    assert state.next_stop.tolist() == [1, 1]
    assert state.t1.tolist() == [1.25, pytest.approx(-1.0)]
    assert state.size.tolist() == [pytest.approx(1.0), pytest.approx(0.5)]
    state.err.fill_(0.0)
    engine(state, controller, 100).control()
    # 0.25 was cut from 1, which is more than twice 0.25; the other row was not cut
    assert state.size.tolist() == [pytest.approx(1.0), pytest.approx(1.0)]
    assert state.next_stop.tolist() == [2, 1]
    state.err.fill_(7.0)
    size = state.size.clone()
    engine(state, controller, 100).control()
    assert (state.size < size).all() and state.next_stop.tolist() == [2, 1]


@each_engine
def test_it_counts_the_rows_that_run_accept_and_pass_the_time_of_an_output(engine: Engine) -> None:
    t0, t_end = torch.zeros(6, dtype=torch.float64), torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, 0.5], dtype=torch.float64)
    state = RowState.begin(t0, t_end, torch.full((6,), 0.5, dtype=torch.float64))
    control = engine(state, CONTROLLERS["default"], 100)
    control.start()
    state.due.copy_(torch.tensor([0.5, 0.4, 0.6, math.nan, -0.2, 0.5], dtype=torch.float64))
    state.err.copy_(torch.tensor([0.5, 5.0, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64))
    running, accepted, passed = control.control()
    assert (running, accepted, passed.tolist()) == (5, 5, [0, 4, 5])
    state.err.fill_(math.nan)
    running, accepted, passed = control.control()
    assert (running, accepted, len(passed)) == (5, 0, 0)


@each_engine
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 5), (6, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_committed_is_chosen_row_by_row(engine: Engine, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    state = rows(0.1, [0.5, 0.5, 3.0, math.nan, 0.5, 3.0])
    control = engine(state, CONTROLLERS["default"], 100)
    control.start()
    control.control()
    new, old = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    chosen = control.select(new, old)
    for r, accept in enumerate([True, True, False, False, True, False]):
        assert torch.equal(chosen[r], (new if accept else old)[r])


def test_the_power_of_the_controller_is_that_of_the_library() -> None:
    power = pytest.importorskip("fastode._native", reason="the native module is not built").power
    values = [
        5e-324,
        1e-310,
        2.2e-308,
        1e-100,
        1e-10,
        0.3,
        0.70710678,
        0.7071068,
        1.0,
        1.4142135,
        1.4142136,
        3.0,
        1e9,
        1e308,
    ]
    values += (10 ** (torch.rand(2000, dtype=torch.float64) * 40 - 20)).tolist()
    for x in values:
        for e in (-0.2, -1 / 3, -0.5, -1.0, 0.08, 0.14):
            if abs(e * math.log2(x)) < 1000:
                exact = x**e
                assert abs(power(x, e) - exact) <= 3e-16 * max(4.0, abs(e * math.log2(x))) * exact


def test_a_power_has_the_same_bits_at_every_place() -> None:
    x = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    for exponent in (1 / 3, 0.2, -0.14):
        together = power(x, exponent)
        assert torch.equal(together, torch.cat([power(x[i : i + 1], exponent) for i in range(len(x))]))
        torch.testing.assert_close(together, x**exponent, rtol=1e-15, atol=0)
