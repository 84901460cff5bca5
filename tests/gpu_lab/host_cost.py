"""What the launches of a step cost the host.

    PYTHONPATH=tests python -m gpu_lab.host_cost

Python, Triton's front door and torch's allocator, for dopri5 on one shared step. The stand-in driver launches nothing:
Triton's launcher in C and the driver's own call are not in these numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

from fastode.controller import Controller
from fastode.kernels.launching import Launches
from fastode.kernels.triton import DeviceState, PartialSums, Tolerances, commit, control, finish, stage
from fastode.methods import lookup

from .driver import stand_in

DOPRI5 = lookup("dopri5")


def launches_of_a_step(elements: int) -> dict[str, list[Callable[[], object]]]:
    """The launches between the evaluations of a step of dopri5 in float32, by the name of the kernel."""
    y, *slopes = (torch.ones(1, elements) for _ in range(8))
    t = torch.zeros(1, dtype=torch.float64)
    due = torch.full((1, 2), torch.nan, dtype=torch.float64)
    rule = Controller(DOPRI5.order)
    state = DeviceState.begin(t, t + 1, t.new_empty((1, 0)), due, DOPRI5.stages, y.dtype, rule, 100)
    partial, out = PartialSums.of((y,), 1, lockstep=True), y.new_empty((1, 1, elements))
    (tolerance,) = Tolerances((y,), (1e-6,), (1e-6,)).pairs

    dt = state.real("dt")
    launches = Launches()

    def stage_at(i: int) -> Callable[[], object]:
        return lambda: stage(y, dt, slopes[:i], DOPRI5.matrix[i], launches(i))

    def judge() -> None:
        weights = DOPRI5.weights, DOPRI5.error_weights
        finish(y, slopes[6], False, dt, slopes, *weights, tolerance, partial, 0, launches("finish"))

    return {
        "stage": [stage_at(i) for i in range(1, DOPRI5.stages)],
        "finish": [judge],
        "control": [lambda: control(state, partial, DOPRI5.nodes, True, launch=launches("control"))],
        "commit": [lambda: commit(y, slopes[6], slopes, state, out, DOPRI5.mid_weights, launch=launches("commit"))],
    }


def host_cost(elements: int = 128, seconds: float = 1.0) -> dict[str, float]:
    """Microseconds of the host for a launch of each kernel, the median of ``seconds`` of them."""
    with stand_in(80, launch=lambda *_: None):
        kernels = launches_of_a_step(elements)
        return {name: _microseconds(calls, seconds) / len(calls) for name, calls in kernels.items()}


def _microseconds(calls: list[Callable[[], object]], seconds: float) -> float:
    def run() -> None:
        for call in calls:
            call()

    run()  # compiles
    timer = Timer("run()", globals={"run": run})
    return float(timer.blocked_autorange(min_run_time=seconds).median * 1e6)


def main() -> None:
    """Print them, and their sum over a step."""
    costs = host_cost()
    for name, cost in costs.items():
        print(f"{name:8} {cost:5.1f} us a launch")
    print(f"{'step':8} {costs['stage'] * (DOPRI5.stages - 1) + sum(list(costs.values())[1:]):5.1f} us")


if __name__ == "__main__":
    main()
