from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from fastode import _native

from .reference import Case, address


def outputs(case: Case) -> list[bytes]:
    step = case.step()
    case.run_stages(step)
    k = address(case.k[-1])
    stage, y1, dense = case.empty(), case.empty(), case.empty()
    step.stage(case.stages - 1, case.dt, address(case.k[-2]), address(stage))
    err = step.finish(case.dt, k, address(y1), True), step.max_error(case.dt, k, address(y1), False)
    step.interpolate(0.3, case.dt, address(y1), address(dense))
    by_row = np.full(case.rows, np.nan)
    step.finish_rows(address(case.dts), k, address(y1), True, address(by_row))
    return [x.tobytes() for x in (stage, y1, dense, by_row, np.array(err))]


@pytest.mark.parametrize(("rows", "cols"), [(3, 7), (5, 513), (2, 50021)], ids=lambda n: str(n))
@pytest.mark.parametrize("stages", [2, 7, 14], ids=lambda s: f"S{s}")
def test_every_instruction_set_gives_the_same_bits(rows, cols, stages, dtype):
    before = _native.target()
    try:
        results = {}
        for name in _native.targets():
            _native.select_target(name)
            results[name] = outputs(Case(dtype, rows, cols, stages))
    finally:
        _native.select_target(before)
    for name, result in results.items():
        assert result == results["baseline"], name


def test_the_best_target_of_this_processor_is_chosen_first():
    assert _native.targets()[-1] == "baseline"
    environment = {k: v for k, v in os.environ.items() if k != "FASTODE_CPU_TARGET"}
    assert imported_target(environment) == _native.targets()[0]


@pytest.mark.parametrize("name", _native.targets())
def test_the_environment_chooses_the_target(name):
    assert imported_target({**os.environ, "FASTODE_CPU_TARGET": name}) == name


def test_an_unknown_target_in_the_environment_stops_the_import_and_names_the_known_ones():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        imported_target({**os.environ, "FASTODE_CPU_TARGET": "sse9"})
    assert "ImportError: FASTODE_CPU_TARGET: CPU target 'sse9' is not available" in caught.value.stderr
    assert "Available: " + ", ".join(_native.targets()) in caught.value.stderr


def test_an_unknown_target_is_refused_and_the_one_in_use_stays():
    before = _native.target()
    with pytest.raises(ValueError, match=r"'AVX' is not available on this processor. Available: .*baseline"):
        _native.select_target("AVX")
    assert _native.target() == before


def imported_target(environment: dict[str, str]) -> str:
    code = (
        "import importlib.util as u;"
        f"s = u.spec_from_file_location('fastode._native', {_native.__file__!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(m.target())"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
