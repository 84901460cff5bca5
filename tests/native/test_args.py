from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from .reference import Case, address, make_step

STEP = {
    "itemsize": 4,
    "rows": 2,
    "cols": 3,
    "c": [0.0, 1.0],
    "a": [[], [1.0]],
    "b": [0.5, 0.5],
    "b_error": [0.5, -0.5],
    "mid": [],
    "threads": 1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"itemsize": 2}, "`itemsize` is 2; allowed are 4"),
        ({"rows": -1}, "`rows` is -1"),
        ({"cols": -3}, "`cols` is -3"),
        ({"rows": 2**40, "cols": 2**40}, "more than memory"),
        ({"threads": 0}, "`threads` is 0"),
        ({"b": []}, "`b` has 0 entries"),
        ({"b": [0.0] * 33}, "`b` has 33 entries"),
        ({"c": [0.0]}, "`c` has 1 entries; `b` has 2"),
        ({"a": [[]]}, "`a` has 1 entries"),
        ({"a": [[], [1.0, 0.0]]}, r"`a\[1\]` has 2 entries"),
        ({"b_error": [1.0]}, "`b_error` has 1 entries"),
        ({"mid": [1.0, 2.0, 3.0]}, "`mid` has 3 entries"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_step_that_makes_no_sense_is_refused_with_what_was_given(change, message):
    with pytest.raises(ValueError, match=message):
        make_step(**{**STEP, **change})


@pytest.mark.parametrize("name", ["y", "k", "out", "y1", "dt", "err", "x", "rtol", "atol"])
def test_a_null_pointer_with_elements_is_refused_by_name(name):
    case = Case(np.float32, 2, 3, 2)
    step, err, out = case.step(), np.zeros(2), case.empty()
    good = {
        "y": address(case.y),
        "k": address(case.k[0]),
        "out": address(out),
        "y1": address(case.y1),
        "dt": address(case.dts),
        "err": address(err),
        "x": address(case.x),
        "rtol": address(case.y),
        "atol": address(case.y),
    }
    calls = [
        (step.begin, "y"),
        (lambda k, out: step.stage(1, 0.1, k, out), "k", "out"),
        (lambda dt, k, out: step.stage_rows(1, dt, k, out), "dt", "k", "out"),
        (lambda k, y1: step.finish(0.1, k, y1, False), "k", "y1"),
        (lambda k, y1: step.max_error(0.1, k, y1, False), "k", "y1"),
        (lambda k, y1, out: step.scaled_error(0.1, k, y1, False, out), "k", "y1", "out"),
        (lambda dt, k, y1, err: step.finish_rows(dt, k, y1, False, err), "dt", "k", "y1", "err"),
        (lambda dt, k, y1, out: step.scaled_error_rows(dt, k, y1, False, out), "dt", "k", "y1", "out"),
        (lambda y1, out: step.interpolate(0.5, 0.1, y1, out), "y1", "out"),
        (lambda x, dt, y1, out: step.interpolate_rows(x, dt, y1, out), "x", "dt", "y1", "out"),
        (step.tolerance_arrays, "rtol", "atol"),
    ]
    refused = 0
    for call, *names in calls:
        if name not in names:
            continue
        with pytest.raises(ValueError, match=f"`{name}` is a null pointer"):
            call(*(0 if n == name else good[n] for n in names))
        refused += 1
    assert refused > 0


def test_a_fake_tensor_is_refused_and_does_not_crash():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch warn, all return 0
        pointer = fake.data_ptr()
    with pytest.raises(ValueError, match=r"null pointer for 6 elements; .*fake and meta"):
        make_step(**STEP).begin(pointer)


def test_a_misaligned_pointer_is_refused():
    with pytest.raises(ValueError, match="`y` is not aligned to its elements of 4 bytes"):
        make_step(**STEP).begin(4097)


def test_an_output_that_is_also_an_input_is_refused():
    case = Case(np.float32, 2, 3, 3)
    step = case.step()
    with pytest.raises(ValueError, match="`out` is also an input"):
        step.stage(1, 0.1, address(case.k[0]), address(case.y))
    with pytest.raises(ValueError, match="`out` is also an input"):
        step.stage(1, 0.1, address(case.k[0]), address(case.k[0]))
    case.run_stages(step)
    with pytest.raises(ValueError, match="`y1` is also an input"):
        step.finish(0.1, address(case.k[2]), address(case.k[2]), True)
    with pytest.raises(ValueError, match="`out` is also an input"):
        step.scaled_error(0.1, address(case.k[2]), address(case.y1), True, address(case.y1))


def test_stages_out_of_order_are_refused():
    case = Case(np.float32, 2, 3, 4)
    fresh = make_step(4, 2, 3, case.c, case.a, case.b, case.b_error, case.mid, 1)
    with pytest.raises(ValueError, match="begin comes before"):
        fresh.stage(1, 0.1, address(case.k[0]), address(case.y1))
    step = case.step()
    with pytest.raises(ValueError, match="slope 2 was given before slope 0"):
        step.stage(3, 0.1, address(case.k[0]), address(case.y1))
    with pytest.raises(ValueError, match="stage 4 does not exist; this method has stages 1 to 3"):
        step.stage(4, 0.1, address(case.k[0]), address(case.y1))
    with pytest.raises(ValueError, match="stage 0 does not exist"):
        step.stage(0, 0.1, address(case.k[0]), address(case.y1))
    with pytest.raises(ValueError, match="interpolate comes after finish"):
        step.interpolate(0.5, 0.1, address(case.y1), address(case.empty()))


def test_the_slopes_of_the_step_before_are_forgotten_at_begin():
    case = Case(np.float32, 2, 3, 4)
    step = case.step()
    case.run_stages(step)
    step.begin(address(case.y))
    with pytest.raises(ValueError, match="slope 2 was given before slope 0"):
        step.stage(3, 0.1, address(case.k[2]), address(case.y1))
