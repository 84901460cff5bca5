from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from .reference import Case
from .test_targets import outputs

LARGE = (3, 100003)


@pytest.mark.parametrize("shape", [(1, 300001), LARGE, (40000, 7)], ids=["one-row", "wide", "narrow"])
def test_results_do_not_depend_on_the_number_of_threads(shape, dtype):
    one = outputs(Case(dtype, *shape, 7, threads=1))
    for threads in (2, 3, 8):
        assert outputs(Case(dtype, *shape, 7, threads=threads)) == one


def test_many_python_threads_may_solve_at_once():
    expected = {seed: outputs(Case(np.float32, *LARGE, 7, threads=1, seed=seed)) for seed in range(4)}
    wrong: list[int] = []

    def work(seed: int) -> None:
        case = Case(np.float32, *LARGE, 7, threads=3, seed=seed)
        wrong.extend(seed for _ in range(5) if outputs(case) != expected[seed])

    threads = [threading.Thread(target=work, args=(seed % 4,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert wrong == []


# Python warns about forking with threads, which is what is tested; so does jax, if a benchmark's peer has imported it.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_builds_threads_of_its_own():
    case = Case(np.float32, *LARGE, 7, threads=3)
    expected = outputs(case)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if outputs(case) == expected else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert outputs(case) == expected
