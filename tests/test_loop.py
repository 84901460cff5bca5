"""The step loop and its clock: exactly which steps are tried, from where, and what is evaluated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from stubs import STUB_METHOD, StubController, StubEngine, StubField, StubObserver, make_clock, make_problem

from fastode import StepSizeUnderflow, TooManySteps
from fastode.controller import Controller
from fastode.errors import NonFiniteState
from fastode.loop import Step, integrate
from fastode.observers import Outputs


class Run:
    """One integration with stubs, and everything they saw."""

    def __init__(
        self,
        errors: tuple[float, ...] = (),
        *,
        t: tuple[float, ...] = (0.0, 1.0),
        first_step: float | None = 0.25,
        controller: StubController | Controller | None = None,
        jump: Any = None,
        outputs: bool = False,
        **options: Any,
    ) -> None:
        self.field = StubField()
        self.problem = make_problem(self.field, t)
        self.engine = StubEngine(errors)
        self.kernels = self.engine.kernels
        self.clock = make_clock(self.problem, controller, **options)
        self.observer: Any = StubObserver(t[-1], self.problem.direction)
        if outputs:
            self.observer = Outputs(self.problem, self.clock)
        self.arguments: dict[str, Any] = {"first_step": first_step, "jump": jump}

    def go(self) -> Run:
        integrate(
            self.problem,
            STUB_METHOD,
            self.engine,
            self.clock,
            self.observer,
            **self.arguments,  # type: ignore[arg-type]
        )
        return self

    @property
    def begun(self) -> list[tuple[float, float, float]]:
        return self.kernels.begun


def test_accepted_steps_follow_one_another_until_the_observer_has_enough():
    run = Run().go()
    assert run.begun == [(0.0, 0.25, 0.25), (0.25, 0.25, 0.5), (0.5, 0.25, 0.75), (0.75, 0.25, 1.0)]
    assert run.observer.ends == [0.25, 0.5, 0.75, 1.0]
    assert (run.problem.stats.n_accepted, run.problem.stats.n_rejected) == (4, 0)


def test_a_rejected_step_is_tried_again_from_the_same_place_with_the_controllers_step():
    run = Run((0.5, 3.0, 3.0, 0.5)).go()
    assert run.begun[:4] == [(0.0, 0.25, 0.25), (0.25, 0.25, 0.5), (0.25, 0.125, 0.375), (0.25, 0.0625, 0.3125)]
    assert run.observer.ends[:2] == [0.25, 0.3125]
    assert run.problem.stats.n_rejected == 2


def test_the_state_is_the_one_before_a_rejected_step():
    states = []
    run = Run((3.0, 0.5))
    begin = run.kernels.begin
    run.kernels.begin = lambda t, dt, t1, y: (states.append(y[0].tolist()), begin(t, dt, t1, y))[1]  # type: ignore
    run.go()
    assert states[:3] == [[0.0, 0.0], [0.0, 0.0], [0.125, 0.125]]


def test_the_rejection_of_the_first_step_skips_no_evaluation_and_repeats_none():
    run = Run((9.0, 9.0, 0.0), first_step=0.5).go()
    # the first slope once, then one evaluation for each attempt
    assert run.field.times == [0.0, *[t1 for _, _, t1 in run.begun]]
    assert [k is run.field.values[0] for k in run.kernels.first_slopes[:3]] == [True, True, True]


def test_the_last_slope_of_an_accepted_step_is_the_first_of_the_next():
    run = Run((0.0, 5.0, 0.0, 0.0)).go()
    slopes, values = run.kernels.first_slopes, run.field.values
    # attempts 0, 1 (rejected), 2, 3 end with evaluations 1, 2, 3, 4
    assert slopes[0] is values[0]
    assert slopes[1] is values[1]
    assert slopes[2] is values[1]
    assert slopes[3] is values[3]


def test_a_given_first_step_is_taken_as_it_is_and_costs_no_evaluation():
    run = Run(first_step=0.7).go()
    assert run.begun[0] == (0.0, 0.7, 0.7)
    assert run.field.times[:2] == [0.0, 0.7]


def test_without_a_first_step_hairers_heuristic_evaluates_once_more():
    run = Run(first_step=None).go()
    # every norm of the stub is 1: h0 = 0.01 d0 / d1 = 0.01, d2 = 1 / h0 = 100, h1 = 0.01 / 100, order 1
    assert run.field.times[:2] == [0.0, 0.01]
    assert run.begun[0] == (0.0, 1e-4, 1e-4)


def test_decreasing_times_take_the_mirror_image_of_the_steps():
    run = Run((0.0, 3.0), t=(1.0, 0.0)).go()
    assert run.begun[:3] == [(1.0, -0.25, 0.75), (0.75, -0.25, 0.5), (0.75, -0.125, 0.625)]
    assert run.observer.ends[-1] <= 0.0


def test_a_step_is_cut_short_to_land_on_step_t():
    run = Run(step_t=[0.375, 0.5]).go()
    assert run.observer.ends[:3] == [0.25, 0.375, 0.5]
    assert run.begun[1] == (0.25, 0.125, 0.375)


def test_after_landing_on_step_t_the_controller_grows_from_the_short_step():
    run = Run(step_t=[0.375], controller=StubController(grow=2.0), first_step=0.25).go()
    assert [dt for _, dt, _ in run.begun] == [0.25, 0.125, 0.25, 0.5]


def test_a_rejected_step_towards_step_t_still_lands_there_later():
    run = Run((0.0, 4.0, 0.0, 0.0), step_t=[0.375]).go()
    assert run.begun[1:4] == [(0.25, 0.125, 0.375), (0.25, 0.0625, 0.3125), (0.3125, 0.0625, 0.375)]


def test_at_jump_t_the_field_is_evaluated_again_just_after_the_jump():
    run = Run(jump_t=[0.375], first_step=0.25).go()
    assert run.observer.ends[:2] == [0.25, 0.375]
    after = math.nextafter(0.375, math.inf)
    assert run.field.times[:5] == [0.0, 0.25, 0.375, after, 0.5]
    assert run.kernels.first_slopes[2] is run.field.values[3]


def test_a_step_that_would_end_exactly_at_a_jump_counts_as_ending_there():
    run = Run(jump_t=[0.25]).go()
    assert run.field.times[:3] == [0.0, 0.25, math.nextafter(0.25, math.inf)]


def test_a_jump_function_replaces_the_state():
    seen = []
    run = Run(jump_t=[0.5], first_step=0.5, jump=lambda t, y: (seen.append(t), (y[0] + 100,))[1])
    run.go()
    assert seen == [0.5]
    assert run.kernels.y[0].tolist() == [100.5, 100.5]


def test_a_jump_at_the_end_of_the_solve_is_not_evaluated():
    run = Run(jump_t=[1.0]).go()
    assert run.field.times[-1] == 1.0


def test_jumps_of_decreasing_times_are_evaluated_just_below():
    run = Run(t=(1.0, 0.0), jump_t=[0.75]).go()
    assert run.field.times[:3] == [1.0, 0.75, math.nextafter(0.75, -math.inf)]


def test_resuming_after_a_jump_takes_the_step_from_before_it_was_cut_short():
    run = Run(jump_t=[0.375], first_step=0.25, resume=True).go()
    assert [dt for _, dt, _ in run.begun[:3]] == [0.25, 0.125, 0.25]


def test_max_num_steps_counts_attempts_between_outputs_only():
    run = Run(t=(0.0, 0.5, 1.0), outputs=True, max_steps=2).go()
    assert run.problem.stats.n_steps == 4
    with pytest.raises(TooManySteps, match=r"max_num_steps exceeded \(1>=1\)"):
        Run(t=(0.0, 0.5, 1.0), outputs=True, max_steps=1).go()


def test_rejected_attempts_count_towards_max_num_steps():
    run = Run((5.0, 5.0, 5.0), outputs=True, max_steps=3)
    with pytest.raises(TooManySteps, match="max_num_steps"):
        run.go()
    assert len(run.begun) == 3


def test_max_total_steps_counts_the_whole_solve():
    run = Run(t=(0.0, 0.25, 0.5, 1.0), outputs=True, max_total_steps=3)
    with pytest.raises(TooManySteps, match="max_total_steps exceeded"):
        run.go()
    assert len(run.begun) == 3


def test_a_step_of_min_step_is_accepted_whatever_its_error():
    controller = Controller(order=1, dt_min=0.25)
    run = Run((1e9, 1e9, 1e9, 1e9), controller=controller).go()
    assert run.observer.ends == [0.25, 0.5, 0.75, 1.0]


def test_a_step_is_never_smaller_than_min_step_nor_larger_than_max_step():
    run = Run((50.0, 0.0, 0.0, 0.0), controller=Controller(order=1, dt_min=0.125, dt_max=0.25)).go()
    assert [dt for _, dt, _ in run.begun[:4]] == [0.25, 0.125, 0.25, 0.25]


def test_an_accepted_state_that_is_not_finite_is_refused():
    run = Run((math.nan,), controller=Controller(order=1, dt_min=0.25))
    run.kernels.finish = lambda k: ((torch.full((2,), math.nan),), math.nan)  # type: ignore[method-assign]
    with pytest.raises(NonFiniteState, match=r"2 of 2 elements .* t=0\.25"):
        run.go()


def test_a_nan_error_without_min_step_is_an_underflow_at_the_next_attempt():
    with pytest.raises(StepSizeUnderflow, match=r"underflow in dt 0\.0: at t=0 "):
        Run((math.nan,), controller=Controller(order=1)).go()


def test_a_step_below_the_spacing_of_numbers_is_an_underflow():
    with pytest.raises(StepSizeUnderflow, match="underflow in dt"):
        Run(t=(1.0, 2.0), first_step=1e-17).go()


def test_a_first_state_that_is_not_finite_is_refused_before_any_step():
    run = Run()
    run.problem.y0 = (torch.tensor([1.0, math.inf], dtype=torch.float64),)
    with pytest.raises(NonFiniteState, match="1 of 2 elements of the state"):
        run.go()
    assert run.begun == []


def test_outputs_at_the_ends_of_steps_are_the_states_themselves_and_the_others_interpolated():
    run = Run(t=(0.0, 0.25, 0.3125, 0.4375, 1.0), outputs=True).go()
    # within the step from 0.25 to 0.5; the ends of steps need no interpolation
    assert run.kernels.interpolated == [0.25, 0.75]


def test_the_account_says_which_engine_served_and_what_comes_next():
    run = Run(controller=StubController(grow=2.0), first_step=0.5).go()
    stats = run.problem.stats
    assert (stats.engine, stats.t, stats.dt) == ("stub", 1.5, 2.0)


def test_callbacks_see_every_attempt_with_the_step_that_is_tried():
    calls: list[tuple[str, float, float]] = []

    def note(kind: str) -> Any:
        return lambda t, y, dt: calls.append((kind, float(t), float(dt)))

    run = Run((0.0, 5.0, 0.0))
    run.problem.callbacks = (note("step"), note("accept"), note("reject"))
    run.go()
    assert calls[:6] == [
        ("step", 0.0, 0.25),
        ("accept", 0.0, 0.25),
        ("step", 0.25, 0.25),
        ("reject", 0.25, 0.25),
        ("step", 0.25, 0.125),
        ("accept", 0.25, 0.125),
    ]


def test_a_step_gives_its_own_new_state_at_its_end():
    run = Run()
    y, y1 = (torch.zeros(2),), (torch.ones(2),)
    run.kernels.y = y
    step = Step(0.0, 0.5, 0.5, y, y1, run.kernels, (), True)  # type: ignore[arg-type]
    assert step.at(0.5) is y1
    assert step.at(0.125) is y
    assert run.kernels.interpolated == [0.25]


class Halting(StubObserver):
    def start(self, t: float, y: Any) -> bool:
        return True


def test_an_observer_that_is_satisfied_at_the_start_takes_no_step():
    run = Run()
    run.observer = Halting(1.0)
    run.go()
    assert run.begun == []
