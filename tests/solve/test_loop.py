"""The step loop with a step for each row, by stand-ins: exactly which steps are tried, and what is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import STUB_METHOD
from torch import Tensor

from fastode import Status, solve
from fastode.controller import Controller
from fastode.field import Field
from fastode.kernels.native.control import RowControl as NativeControl
from fastode.kernels.reference.control import RowControl
from fastode.kernels.row_state import RowState
from fastode.loop import Step, integrate
from fastode.problem import Problem
from fastode.rows.clock import RowsClock
from fastode.stats import SolveStats
from fastode.tree import Parts

double = torch.float64
REJECT = 1e9
#: a rejected step is halved, an accepted one stays
HALVE = Controller(order=1, factor_min=0.5, factor_max=1.0)
each_control = pytest.mark.parametrize("control", [NativeControl, RowControl], ids=["native", "reference"])


class Kernels:
    """Adds ``dt`` to the state of each row; the error of a row's n-th attempt is given, 0 when they run out."""

    engine = "stub"
    differentiable = False

    def __init__(self, errors: dict[int, list[float]], clock: RowsClock) -> None:
        self.errors = {row: iter(e) for row, e in errors.items()}
        self.clock = clock
        self.tried: dict[int, list[tuple[float, float]]] = {}
        self.evaluated: list[int] = []

    def rows(self) -> list[int]:
        rows = self.clock.rows
        return list(range(len(self.clock.t))) if rows is None else rows.tolist()

    def begin(self, t: Tensor, dt: Tensor, t1: Tensor, y: Parts) -> Sequence[Tensor]:
        self.y, self.dt = y, dt
        for row, a, h, b in zip(self.rows(), t.tolist(), dt.tolist(), t1.tolist(), strict=True):
            if h:
                self.tried.setdefault(row, []).append((a, b))
        return torch.stack([t, t1]).unbind(0)

    def stage(self, i: int, k: Parts) -> Parts:
        return self.y

    def finish(self, k: Parts) -> tuple[Parts, Tensor]:
        running = self.dt != 0
        err = [
            next(self.errors.get(row, iter(())), 0.0) if runs else 0.0
            for row, runs in zip(self.rows(), running.tolist(), strict=True)
        ]
        return tuple([p + self.dt[:, None] for p in self.y]), torch.tensor(err, dtype=double)


class Run:
    """One solve of rows with stand-ins, and what they saw."""

    def __init__(
        self,
        control: Any,
        spans: Sequence[tuple[float, float]],
        steps: Sequence[float],
        errors: dict[int, list[float]] | None = None,
        *,
        stops: Sequence[Sequence[float]] = (),
        compact: bool = True,
        max_steps: int = 100,
    ) -> None:
        t0, t_end = (torch.tensor(t, dtype=double) for t in zip(*spans, strict=True))
        stop_t = torch.tensor([list(s) for s in stops] or [[] for _ in spans], dtype=double)
        self.states: list[Tensor] = []
        self.sizes: list[int] = []
        y0 = (t0[:, None].clone(),)
        stats = SolveStats()
        size = torch.tensor(steps, dtype=double)
        self.clock = RowsClock(
            RowState.begin(t0, t_end, size, stop_t), y0, HALVE, control, stats, max_steps,
            torch.zeros_like(stop_t, dtype=torch.bool), compact,
        )  # fmt: skip
        self.kernels = Kernels(errors or {}, self.clock)
        self.problem = Problem(
            field=Field(self.slope, (), y0, None, stats), y0=y0, t=torch.zeros(1, dtype=double), rtol=[0.0], atol=[1.0],
            norm="rms", direction=1.0, time_dtype=double, spec=None, stats=stats,
        )  # fmt: skip
        integrate(self.problem, STUB_METHOD, self, self.clock, self)  # type: ignore[arg-type]

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        self.sizes.append(len(y))
        return torch.ones_like(y)

    def bind(self, binding: Any) -> Kernels:
        return self.kernels

    def start(self, t: Tensor, y: Parts) -> bool:
        return False

    def accepted(self, step: Step) -> bool:
        self.states.append(step.y1[0].squeeze(1).clone())
        return False

    def ends(self, row: int) -> list[float]:
        return [b for _, b in self.kernels.tried[row]]


@each_control
def test_each_row_goes_by_its_own_steps_in_its_own_direction(control: Any) -> None:
    run = Run(control, [(0, 1), (2, 1.5), (0, 0.75)], [0.5, 0.25, 0.5])
    assert run.kernels.tried == {
        0: [(0.0, 0.5), (0.5, 1.0)],
        1: [(2.0, 1.75), (1.75, 1.5)],
        2: [(0.0, 0.5), (0.5, 0.75)],
    }
    assert run.clock.y[0].squeeze(1).tolist() == run.clock.all.t.tolist() == [1.0, 1.5, 0.75]


@each_control
def test_a_rejected_step_repeats_from_the_same_place_and_the_others_go_on(control: Any) -> None:
    run = Run(control, [(0, 1), (0, 1)], [0.5, 0.5], {0: [0, REJECT, REJECT]})
    assert run.kernels.tried[0] == [(0.0, 0.5), (0.5, 1.0), (0.5, 0.75), (0.5, 0.625)] + [
        (a / 8, (a + 1) / 8) for a in (5, 6, 7)
    ]
    assert run.ends(1) == [0.5, 1.0]
    assert run.clock.all.n_rejected.tolist() == [2, 0] and run.clock.all.n_accepted.tolist() == [5, 2]


@each_control
def test_the_rejection_of_the_first_step_skips_no_evaluation(control: Any) -> None:
    run = Run(control, [(0, 1)], [1.0], {0: [REJECT]})
    assert run.kernels.tried[0] == [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0)]
    # the first slope, and one more in each of three attempts
    assert run.sizes == [1] * 4


@each_control
def test_a_finished_row_no_longer_moves_whether_it_stays_in_the_batch_or_not(control: Any) -> None:
    spans = [(0.0, 0.25), *[(0.0, 2.0)] * 9]
    for compact in (True, False):
        run = Run(control, spans, [0.25] * 10, compact=compact)
        assert run.kernels.tried[0] == [(0.0, 0.25)]
        assert run.clock.y[0].squeeze(1).tolist() == [0.25] + [2.0] * 9
        assert run.clock.all.status.tolist() == [Status.FINISHED] * 10
        assert set(run.sizes) == {10}  # nine of ten run on: not worth a smaller batch
    run = Run(control, [(0.0, 0.25)] * 3 + [(0.0, 2.0)], [0.25] * 4)
    assert run.sizes == [4, 4] + [1] * 7
    assert len(run.kernels.tried[3]) == 8


@each_control
def test_a_step_cut_at_a_stop_is_followed_by_one_of_the_size_from_before(control: Any) -> None:
    run = Run(control, [(0, 3), (0, -3)], [1.0, 1.0], stops=[[0.25, 1.75], [-2.5, -3.0]])
    assert run.ends(0) == [0.25, 1.25, 1.75, 2.75, 3.0]
    assert run.ends(1) == [-1.0, -2.0, -2.5, -3.0]


@each_control
def test_a_rejected_step_at_a_stop_is_halved_from_what_was_tried(control: Any) -> None:
    run = Run(control, [(0, 2)], [1.0], {0: [REJECT]}, stops=[[0.5]])
    assert run.ends(0) == [0.5, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]


@each_control
def test_a_row_at_the_limit_stops_where_it_is_and_the_others_end(control: Any) -> None:
    run = Run(control, [(0, 4), (0, 1)], [0.5, 0.5], max_steps=3)
    assert run.clock.all.status.tolist() == [Status.TOO_MANY_STEPS, Status.FINISHED]
    assert run.clock.all.t.tolist() == run.clock.y[0].squeeze(1).tolist() == [1.5, 1.0]


@each_control
def test_a_broken_row_keeps_its_last_good_state(control: Any) -> None:
    run = Run(control, [(0, 1), (0, 1)], [0.25, 0.25], {0: [0, 0, *[math.nan] * 200]}, max_steps=1000)
    assert run.clock.all.status.tolist() == [Status.NON_FINITE, Status.FINISHED]
    assert run.clock.y[0].squeeze(1).tolist() == [0.5, 1.0]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-3, 3),
            st.lists(st.floats(0.05, 1.0), min_size=0, max_size=4),
            st.sampled_from([-1.0, 1.0]),
            st.floats(0.2, 3.0),
        ),
        min_size=1,
        max_size=6,
    ),
    dense=st.booleans(),
)
def test_ragged_spans_give_each_row_what_it_gets_alone(
    rows: list[tuple[float, list[float], float, float]], dense: bool
) -> None:
    starts = torch.tensor([r[0] for r in rows], dtype=double)
    ends = starts + torch.tensor([r[2] * r[3] for r in rows], dtype=double)
    ts = [
        s + (e - s) * torch.tensor(sorted(set(r[1])), dtype=double) for s, e, r in zip(starts, ends, rows, strict=True)
    ]
    if not any(len(t) for t in ts):
        ts[0] = starts[:1]
    rate = torch.linspace(0.5, 4.0, len(rows), dtype=double)
    y0 = torch.ones(len(rows), 2, dtype=double)

    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return -rate[:, None] * torch.sin(y + t[:, None])

    together = solve(field, y0, (starts, ends), ts, args=(rate,), dense=dense)
    assert (together.status == Status.FINISHED).all() and torch.equal(together.t, ends)
    for i, own in enumerate(ts):
        one = slice(i, i + 1)
        alone = solve(
            field, y0[one], (starts[one], ends[one]), [own] if len(own) else None, args=(rate[one],), dense=dense
        )
        n = len(own)
        assert together.ys[i, n:].isnan().all()
        if n:
            assert torch.equal(together.ys[i, :n], alone.ys[0])
        assert torch.equal(together.y[i], alone.y[0])
        assert int(together.stats.n_func[i]) == int(alone.stats.n_func[0])
        if dense and n:
            assert torch.equal(together.sol(together.ts)[i, :n], alone.sol(own[None])[0])
