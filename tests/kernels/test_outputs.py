"""Stage times, dense output, combinations and norms of every engine, and states of several parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastode.kernels import Binding
from fastode.kernels.norms import UserNorm
from fastode.methods import lookup

from .cases import SHAPES, Step, assert_within, shape_id
from .conftest import EngineUnderTest

#: the last stage of dopri5 and dopri8 is the new state; that of adaptive_heun is not
each_method = pytest.mark.parametrize("method", ["adaptive_heun", "dopri5", "dopri8", "tsit5"])
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
each_norm = pytest.mark.parametrize("norm", ["rms", "max", "per_sample"])


@each_shape
@each_method
def test_dense_output_of_any_shape_is_the_quartic_through_both_ends_and_the_middle(
    engine: EngineUnderTest, method: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    step = Step(method, shape, dtype, engine.device)
    answer = step.run(engine)
    assert answer.between.dtype == dtype
    assert_within(answer.between, step.quartic(answer.y1), step.rounding_of_the_quartic(answer.y1))


@pytest.mark.parametrize("dt", [0.0625, -0.0625], ids=["forward", "backward"])
@each_method
def test_stages_at_the_end_of_a_step_are_timed_just_before_it(
    engine: EngineUnderTest, method: str, dt: float, dtype: torch.dtype
) -> None:
    step = Step(method, (3,), dtype, engine.device, dt=dt)
    end = torch.tensor(0.5 + dt, dtype=dtype)
    before = torch.nextafter(end, torch.tensor(0.5, dtype=dtype))
    for time, c in zip(step.run(engine).times, step.tableau.nodes, strict=True):
        assert time.dtype == dtype and time.ndim == 0
        if c == 1:
            assert time == before
        else:
            assert float(time) == pytest.approx(0.5 + c * dt, rel=2 * torch.finfo(dtype).eps)


def test_a_users_norm_sees_the_scaled_errors_and_may_keep_them(engine: EngineUnderTest) -> None:
    seen: list[Tensor] = []

    def norm(ratio: Tensor) -> Tensor:
        seen.append(ratio)
        return -ratio.abs().sum()

    step = Step("dopri5", (7,), torch.float64, engine.device, norm=UserNorm(norm, lambda parts: parts[0]))
    first, copy = step.run(engine), seen[0].clone()
    step.run(engine)
    assert first.err == pytest.approx(float(step.ratio(first.y1).abs().sum()), rel=1e-12)
    assert torch.equal(seen[0], copy) and seen[0].data_ptr() != seen[1].data_ptr()


@each_norm
@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=repr)
@pytest.mark.parametrize("where", [0, 64], ids=["first-element", "last-element"])
def test_one_element_that_is_not_finite_rejects_by_any_norm_and_leaves_the_others_as_they_were(
    engine: EngineUnderTest, norm: str, bad: float, where: int, dtype: torch.dtype
) -> None:
    step = Step("dopri5", (13, 5), dtype, engine.device, norm=norm)
    good = step.run(engine)
    step.k[3].view(-1)[where] = bad
    answer = step.run(engine)
    assert not answer.err <= 1
    same = (answer.y1 == good.y1).view(-1)
    assert not same[where] and int(same.sum()) == 64


def error_of_two_parts(engine: EngineUnderTest, steps: list[Step], controlled: int | None = None) -> float:
    """The error of one step of both, each part with its own slopes."""
    binding = Binding(
        lookup("dopri5"),  # type: ignore[arg-type]
        tuple(s.y for s in steps),
        [s.rtol for s in steps],
        [s.atol for s in steps],
        steps[0].norm,
        controlled=controlled,
    )
    kernels = engine.bind(binding)
    kernels.begin(0.0, 0.0625, 0.0625, tuple(s.y for s in steps))
    for i in range(1, 7):
        stage = kernels.stage(i, tuple(s.k[i - 1] for s in steps))
        assert [p.shape for p in stage] == [s.y.shape for s in steps]
    return float(kernels.finish(tuple(s.k[-1] for s in steps))[1])


@each_norm
def test_the_error_of_several_parts_is_the_largest_of_theirs(
    engine: EngineUnderTest, norm: str, dtype: torch.dtype
) -> None:
    steps = [Step("dopri5", shape, dtype, engine.device, norm=norm) for shape in [(7,), (3, 4)]]
    alone = [s.run(engine).err for s in steps]
    assert alone[0] != alone[1]
    assert error_of_two_parts(engine, steps) == max(alone)


@each_norm
def test_only_the_leading_parts_that_are_controlled_enter_the_error(engine: EngineUnderTest, norm: str) -> None:
    steps = [Step("dopri5", (7,), torch.float64, engine.device, norm=norm) for _ in range(2)]
    steps[1].k[2][0] = 1e6
    assert error_of_two_parts(engine, steps, controlled=1) == steps[0].run(engine).err
    assert error_of_two_parts(engine, steps) == steps[1].run(engine).err > 1


@each_norm
@pytest.mark.parametrize("part", [0, 1], ids=["first", "second"])
def test_a_nan_in_either_part_is_the_error_of_both(engine: EngineUnderTest, norm: str, part: int) -> None:
    steps = [Step("dopri5", (7,), torch.float64, engine.device, norm=norm) for _ in range(2)]
    steps[part].k[2][0] = math.nan
    assert math.isnan(error_of_two_parts(engine, steps))


@pytest.mark.parametrize("terms", [0, 1, 2, 5])
@each_shape
def test_combine_adds_weighted_vectors_to_the_base_in_fresh_memory(
    engine: EngineUnderTest, shape: tuple[int, ...], terms: int, dtype: torch.dtype
) -> None:
    step = Step("dopri5", shape, dtype, engine.device, dt=1.0)
    kernels = engine.bind(Binding(step.tableau, (step.y,), [1e-3], [1e-4]))
    weights = [0.5, -1.25, 0.0, 3.0, 1 / 3][:terms]
    before = step.y.clone()
    (found,) = kernels.combine((step.y,), [(k,) for k in step.k[:terms]], list(weights))
    assert_within(found, step.state(weights), step.unit * (step.y.double().abs() + step.sum(weights, absolute=True)))
    assert torch.equal(step.y, before)
    assert not found.numel() or found.data_ptr() != step.y.data_ptr()


@pytest.mark.parametrize("minus", [False, True], ids=["one", "difference"])
@each_norm
@each_shape
def test_the_norm_of_a_slope_is_in_units_of_the_tolerance_at_the_state(
    engine: EngineUnderTest, shape: tuple[int, ...], norm: str, minus: bool, dtype: torch.dtype
) -> None:
    step = Step("dopri5", shape, dtype, engine.device)
    kernels = engine.bind(Binding(step.tableau, (step.y,), [step.rtol], [step.atol], norm))
    a, b = step.k[0], step.k[1]
    found = float(kernels.norm_of((step.y,), (a,), (b,) if minus else None))
    value = a.double() - b.double() if minus else a.double()
    ratio = value / (step.atol + step.rtol * step.y.double().abs())
    if not ratio.numel():
        expected = 0.0
    elif norm == "rms":
        expected = math.sqrt(float(ratio.square().mean()))
    elif norm == "max" or len(shape) < 2:
        expected = float(ratio.abs().max())
    else:
        expected = max(math.sqrt(float(row.square().mean())) for row in ratio)
    # a sum of n squares of one sign is off by about sqrt(n) eps
    bound = (8 + math.sqrt(math.prod(shape))) * torch.finfo(dtype).eps * expected
    assert abs(found - expected) <= bound
