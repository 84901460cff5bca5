"""Running the command line inside the test process."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fastode.cli import main

TINY = [
    "--steps",
    "4",
    "--batch",
    "16",
    "--hidden",
    "8,8",
    "--n-samples",
    "200",
    "--eval-every",
    "2",
    "--tol",
    "1e-2",
]


@pytest.fixture
def fastode(capsys, monkeypatch, tmp_path):
    """Run ``fastode ARGS`` in an empty folder; the answer has ``code``, ``out`` and ``err``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        streams = capsys.readouterr()
        return SimpleNamespace(code=code, out=streams.out, err=streams.err)

    return run


@pytest.fixture
def trained(fastode):
    """The folder of a tiny finished run on moons."""
    answer = fastode("train", "moons", "--out", "run", "--no-plots", *TINY)
    assert answer.code == 0, answer.err
    return Path("run")
