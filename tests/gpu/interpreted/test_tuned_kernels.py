"""The kernels whose block sizes the benchmark compares, in Triton's interpreter: other sizes, the same results."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from repository import importable

with importable():
    from bench import tuned_kernels
    from bench.budget import Budget
    from bench.parts import Findings
    from bench.tuned_kernels import TracedField, step_trials
    from bench.tuning import WORST_ERROR, measure

ELEMENTS = 5000


def test_a_block_size_reaches_the_kernel_and_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    launch = tuned_kernels._WithWarps.__getitem__

    def noted(self: tuned_kernels._WithWarps, grid: tuple[int, ...]) -> object:
        seen.append((self.kernel.fn.__name__, grid[-1], self.warps))
        return launch(self, grid)

    monkeypatch.setattr(tuned_kernels._WithWarps, "__getitem__", noted)
    results: dict[str, list[torch.Tensor]] = {}
    blocks = (512, 1024)
    monkeypatch.setattr(tuned_kernels, "BLOCKS", blocks)
    for trial in step_trials(ELEMENTS, "cpu"):
        result = trial.prepare()()
        if isinstance(result, torch.Tensor):
            results.setdefault(trial.kernel, []).append(result)
    for kernel in ("stage", "commit"):
        expected = [(f"{kernel}_kernel", -(-ELEMENTS // block), warps) for block in blocks for warps in (4, 8)]
        assert [s for s in seen if s[0] == expected[0][0]] == expected
    finished = [s for s in seen if s[0] == "finish_kernel"]
    assert [s[2] for s in finished] == [4, 8, 4, 8] and finished[0][1] > finished[-1][1]
    first, *others = results["stage"]
    assert first.numel() == ELEMENTS and all(torch.equal(first, other) for other in others)


def test_some_settings_of_every_fused_kernel_run_and_those_in_use_are_among_them() -> None:
    field, noted = TracedField(8, "cpu"), list[Findings]()
    for kind, few in ((field.attempts(), 2), (field.rows(), 1), (field.sweeps(), 2)):
        trials = [*islice(kind, few)]
        assert [trial.in_use for trial in trials].count(True) == 1
        calls: list[object] = []
        found = measure(trials, lambda call, calls=calls: calls.append(call()) or 1.0, Budget(5), noted.append)
        assert found.problems == [] and not found.failed and len(calls) == few
        assert found.text.count("8 rows") >= few
        if trials[0].error is not None:
            assert trials[0].error() < 1e-6 < WORST_ERROR
        assert trials[0].count() > 1 or trials[0].kernel.startswith("attempt")
