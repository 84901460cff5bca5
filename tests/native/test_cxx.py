"""The C++ tests, compiled with sanitizers: memory errors and undefined behaviour fail them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parent / "cxx" / "build"
COMPILER = os.environ.get("CXX", "c++")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(COMPILER.split()[0]) is None, reason="no C++ compiler on PATH")
@pytest.mark.skipif(not (BUILD.parents[3] / "csrc").is_dir(), reason="the C++ sources are not here")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_cxx_tests_pass_under(sanitizers, tmp_path):
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() {}")
    program = [COMPILER, f"-fsanitize={sanitizers}", str(probe), "-o", str(tmp_path / "probe")]
    if subprocess.run(program, capture_output=True).returncode != 0:
        pytest.skip(f"the compiler has no -fsanitize={sanitizers}")
    if subprocess.run([tmp_path / "probe"], capture_output=True).returncode != 0:
        pytest.skip(f"programs with -fsanitize={sanitizers} do not start on this system")
    # A preloaded sanitizer belongs to the Python that runs this test, not to the programs it starts.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    command = [str(BUILD), sanitizers, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
