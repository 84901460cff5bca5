"""The parts of ``python -m bench --out`` by themselves: the profile, the tests of a GPU, the block sizes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from repository import importable

pytest.importorskip("torchdiffeq", reason="the benchmark measures beside torchdiffeq")
with importable():
    from bench import gpu_tests
    from bench.budget import Budget
    from bench.parts import Findings
    from bench.profiles import profile_all
    from bench.tuning import Trial, measure


def test_a_solve_that_cannot_be_profiled_does_not_stop_the_others(tmp_path: Path) -> None:
    def breaks() -> None:
        raise RuntimeError("no kernel")

    noted: list[Findings] = []
    calls = {"bad": breaks, "good": lambda: torch.ones(3) + 1}
    found = profile_all(tmp_path, "cpu", True, noted.append, calls)
    assert found.failed and found.problems == ["bad: RuntimeError: no kernel"] and len(noted) == 2
    assert "aten::add" in found.text and "good" in (tmp_path / "profile.txt").read_text()
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


PYTEST = """
============================= test session starts ==============================
tests/gpu/test_a.py::test_one[float32] PASSED                            [ 25%]
tests/gpu/test_a.py::test_two FAILED                                     [ 50%]
tests/gpu/test_a.py::test_three[a b] SKIPPED (no room)                   [ 75%]
"""


def test_the_verdicts_of_tests_are_read_from_what_pytest_printed() -> None:
    found = gpu_tests.read(PYTEST, "exit status 1")
    assert found.failed and found.problems == ["tests/gpu/test_a.py::test_two: failed"]
    assert found.text.startswith("1 passed, 1 failed, 1 skipped")
    assert "- skipped: `tests/gpu/test_a.py::test_three[a b]`" in found.text
    passed = gpu_tests.read(PYTEST.replace("FAILED", "PASSED"), "")
    assert not passed.failed and not passed.problems


@pytest.mark.parametrize(
    ("output", "reason", "said"),
    [
        (PYTEST + "tests/a.py::test_hangs \n", "killed after 9 s", "killed after 9 s: during tests/a.py::test_hangs"),
        (PYTEST + "E  CUDA error: an illegal memory access", "exit status 1", "faulted (illegal memory access)"),
        ("No module named pytest", "exit status 1", "exit status 1: No module named pytest"),
        ("collected 0 items", "", "pytest found no test"),
    ],
    ids=["hang", "fault", "no pytest", "no test"],
)  # fmt: skip
def test_what_stopped_the_tests_is_named(output: str, reason: str, said: str) -> None:
    found = gpu_tests.read(output, reason)
    assert found.failed and any(said in problem for problem in found.problems)


def test_tests_run_in_a_process_of_their_own(tmp_path: Path) -> None:
    found = gpu_tests.run_tests(tmp_path, Budget(2), [sys.executable, "-c", f"print({PYTEST!r})"])
    assert found.text.startswith("1 passed, 1 failed") and "test_two" in (tmp_path / "tests.txt").read_text()


def test_block_sizes_are_compared_by_kernel_and_size() -> None:
    def trial(settings: str, microseconds: float, in_use: bool = False, error: float | None = None) -> Trial:
        def call() -> float:
            return microseconds

        return Trial("k", "9 rows", settings, in_use, lambda: call, lambda: 2, 0, error and (lambda: error))

    def broken() -> Callable[[], object]:
        raise RuntimeError("out of shared memory\nsecond line")

    noted: list[Findings] = []
    trials = [
        trial("slow", 8.0, True, 1e-6),
        Trial("k", "9 rows", "large", False, broken),
        trial("fast", 4.0, error=1e-3),
    ]
    found = measure(trials, lambda call: 1e-3 * call(), Budget(1), noted.append)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.text.splitlines()[2:]]
    assert lines == [
        ["k", "9 rows", "fast", "2", "1.00x", "", "1.0e-03"],
        ["k", "9 rows", "**slow** (in use)", "4", "2.00x", "", "1.0e-06"],
    ]
    assert found.problems == ["k, 9 rows, large: RuntimeError: out of shared memory"] and not found.failed
    assert measure([trial("wrong", 1.0, error=0.5)], lambda call: 1.0, Budget(1), noted.append).failed
    late = measure(trials, lambda call: 1.0, Budget(0), noted.append)
    assert not late.failed and late.problems == [
        "not measured: 3 settings of k, 9 rows: the time for this part was spent"
    ]
    in_use = Trial("k", "9 rows", "large", True, broken)
    assert measure([in_use], lambda call: 1.0, Budget(1), noted.append).failed
