"""``fastode sample``, ``plot``, ``info``, and the promises around them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fastode.cli import info as info_module


def test_samples_are_written_as_npy(fastode, trained):
    answer = fastode("sample", trained, "-n", "50", "--out", "points.npy")

    assert answer.code == 0 and "50 samples with 2 columns written to points.npy" in answer.out
    points = np.load("points.npy")
    assert points.shape == (50, 2) and np.isfinite(points).all()


def test_samples_are_written_as_csv_with_the_names_of_the_columns(fastode, trained):
    assert fastode("sample", trained, "-n", "20", "--out", "points.csv").code == 0

    frame = pd.read_csv("points.csv")
    assert list(frame.columns) == ["x1", "x2"] and frame.shape == (20, 2)


def test_the_seed_decides_the_samples(fastode, trained):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fastode("sample", trained, "-n", "5", "--out", f"{name}.npy", "--seed", seed)

    a, b, c = (np.load(f"{name}.npy") for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_samples_that_cannot_be_written_are_one_line(fastode, trained):
    answer = fastode("sample", trained, "--out", "no/such/folder.npy")

    assert answer.code == 2 and "cannot be written" in answer.err and "Traceback" not in answer.err


def test_pictures_can_be_drawn_again(fastode, trained):
    answer = fastode("plot", trained, "--no-animation")

    assert answer.code == 0, answer.err
    assert (trained / "density.png").is_file() and not (trained / "flow.gif").exists()


def test_info_shows_versions_engines_and_threads(fastode):
    answer = fastode("info")

    assert answer.code == 0
    for word in ("python", "torch", "numpy", "triton", "native engine (CPU)", "CUDA module", "threads"):
        assert word in answer.out


def test_info_works_when_parts_are_missing(fastode, monkeypatch):
    def nothing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(info_module, "import_module", nothing)

    answer = fastode("info")

    assert answer.code == 0 and "not available (No module named 'fastode._native')" in answer.out


def test_help_names_every_command(fastode):
    answer = fastode("--help")

    assert answer.code == 0
    for command in ("train", "sample", "plot", "info"):
        assert command in answer.out


def test_help_of_train_shows_defaults(fastode):
    answer = fastode("train", "--help")

    assert answer.code == 0 and "whiten" in answer.out and "[default: 512]" in answer.out


def test_it_runs_as_a_module():
    process = subprocess.run(
        [sys.executable, "-m", "fastode", "train", "mons"],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith("fastode: 'mons' is neither") and process.stderr.count("\n") == 1


def test_importing_the_library_brings_in_nothing_of_the_command_line():
    script = (
        "import sys, fastode, fastode.nn, fastode.training\n"
        "heavy = {'typer', 'rich', 'matplotlib', 'pandas', 'pyarrow', 'safetensors', 'PIL', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)

    assert process.stdout.strip() == "[]"


def test_nothing_is_written_outside_the_run_folder(fastode, trained):
    assert sorted(p.name for p in Path(".").iterdir()) == ["run"]
    assert sorted(p.name for p in trained.iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
        "result.json",
    ]
