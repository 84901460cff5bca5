"""The measurement of what launches cost the host takes in every launch of a step."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from .counting import counting_launches
from .driver import stand_in
from .host_cost import host_cost, launches_of_a_step


def test_a_step_is_nine_launches() -> None:
    with stand_in(80, launch=lambda *_: None), counting_launches() as seen:
        for calls in launches_of_a_step(128).values():
            for call in calls:
                call()
    assert seen == {"stage_kernel": 6, "finish_kernel": 1, "control_kernel": 1, "commit_kernel": 1}


def test_every_kernel_has_a_cost() -> None:
    costs = host_cost(seconds=0.01)
    assert list(costs) == ["stage", "finish", "control", "commit"] and min(costs.values()) > 0
