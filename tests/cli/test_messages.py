"""Every user error is one line on stderr with exit code 2, and says what to write."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from fastode.cli import main

from .conftest import TINY


def one_line(answer):
    assert answer.code == 2
    assert "Traceback" not in answer.err
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fastode: "), answer.err
    return lines[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], "no data given; name a density (moons, circles"),
        (["train", "mons"], "'mons' is neither a built-in density nor a file. Did you mean 'moons'?"),
        (["train", "no.csv"], "no.csv: there is no such file"),
        (["train", "moons", "--steps", "0"], "`--steps 0`: it must be at least 1"),
        (["train", "moons", "--lr", "-1"], "`--lr -1.0`: it must be positive"),
        (["train", "moons", "--hidden", "a,b"], "`--hidden a,b`: it must be whole numbers"),
        (["train", "moons", "--hidden", "0"], "every size must be at least 1"),
        (["train", "moons", "--layer", "dense"], "`layer='dense'` is not known. Known: concat, concatsquash"),
        (["train", "moons", "--trace", "none"], "`trace='none'` is not known. Known: exact, hutchinson"),
        (["train", "moons", "--gradient", "no"], "Known: autograd, discrete, backsolve"),
        (["train", "moons", "--scale", "no"], "`--scale no`: it must be one of whiten, standardise"),
        (["train", "moons", "--threads", "0"], "`--threads 0`: it must be at least 1"),
        (["train", "moons", "--method", "dopri55"], "dopri5"),
        (["train", "moons", "--resume", "run"], "takes its data, folder and settings from the run, but data was given"),
        (["train", "--resume", "run", "--steps", "9"], "but steps was given"),
        (["train", "moons", "--method", "rk4"], "`--method rk4`: it must be one that controls its step size"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder"),
        (["train", "moons", "--step", "x"], "--step"),
        (["train", "moons", "--batch", "many"], "Invalid value for '--batch'"),
        (["sample", "nowhere"], "nowhere is not a run folder"),
        (
            ["sample", "nowhere", "--out", "x.txt"],
            "files of type .txt cannot be written; allowed are .npy, .csv",
        ),
        (["sample", "nowhere", "-n", "0"], "`-n 0`: it must be at least 1"),
        (["plot", "nowhere"], "nowhere is not a run folder"),
        (["tain"], "tain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_answered_in_one_line(fastode, args, message):
    assert message in one_line(fastode(*args))


def save_nan():
    values = np.random.default_rng(0).standard_normal((40, 2))
    values[3, 1] = values[7, 0] = values[7, 1] = np.nan
    np.save("data.npy", values)


def save_infinite_parquet():
    import pandas as pd

    pd.DataFrame({"a": np.arange(30.0), "b": [np.inf] + [0.0, 1.0] * 14 + [2.0]}).to_parquet("data.parquet")


def save_archive():
    with open("data.npy", "wb") as file:
        np.savez(file, x=np.eye(30))


def save_object_array():
    np.save("data.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("data.npy", save_nan, "2 of 40 rows contain NaN or infinity"),
        ("data.parquet", save_infinite_parquet, "1 of 30 rows contain NaN or infinity"),
        ("data.csv", lambda: Path("data.csv").write_text("a,b\n" + "1,x\n" * 30), "column b holds text"),
        (
            "data.csv",
            lambda: Path("data.csv").write_text("a,b\n" + "1,2\n,3\n" * 15),
            "15 of 30 rows contain NaN",
        ),
        ("data.csv", lambda: Path("data.csv").write_text(""), "cannot be read as CSV"),
        ("data.npy", lambda: Path("data.npy").write_bytes(b"junk"), "array: it is none, or holds pickled objects"),
        ("data.npz", lambda: Path("data.npz").write_bytes(b"PK\x03\x04junk"), "cannot be read as an archive"),
        ("data.npy", save_archive, "call it data.npz"),
        ("data.parquet", lambda: Path("data.parquet").write_bytes(b"junk"), "cannot be read as Parquet"),
        ("data.npy", save_object_array, "cannot be read as a numpy array"),
        (
            "data.npy",
            lambda: np.save("data.npy", np.zeros(9)),
            "the array has shape (9,); it must be a table",
        ),
        (
            "data.npy",
            lambda: np.save("data.npy", np.ones((30, 2), dtype=complex)),
            "they must be real numbers",
        ),
        ("data.npy", lambda: np.save("data.npy", np.eye(5)), "5 rows are too few"),
        (
            "data.npy",
            lambda: np.save("data.npy", np.ones((30, 2)).cumsum(0) * [1, 0]),
            "column 2 (counted from 1)",
        ),
        (
            "data.npy",
            lambda: np.save("data.npy", np.ones((30, 2)).cumsum(0)),
            "covariance of the 24 rows is singular",
        ),
        (
            "data.npz",
            lambda: np.savez("data.npz", a=np.eye(3), b=np.eye(3)),
            "it holds the arrays a, b; name the one",
        ),
        ("data.txt", lambda: Path("data.txt").write_text("1 2"), "files of type .txt cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_file_that_cannot_be_fitted_is_refused_in_one_line(fastode, name, make, message):
    make()

    assert message in one_line(fastode("train", name, "--no-plots", *TINY))


def test_a_run_is_not_overwritten(fastode, trained):
    line = one_line(fastode("train", "moons", "--out", trained, *TINY))

    assert "holds a run already" in line and "--resume run" in line


def test_a_refused_command_leaves_no_folder_behind(fastode):
    fastode("train", "moons", "--layer", "dense")

    assert not Path("runs").exists()


def test_a_damaged_checkpoint_is_refused(fastode, trained):
    path = trained / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])

    assert "is not a readable checkpoint" in one_line(fastode("train", "--resume", trained))
    assert "is not a readable checkpoint" in one_line(fastode("sample", trained))


def test_a_foreign_safetensors_file_is_refused(fastode, trained):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, trained / "checkpoint.safetensors")

    assert "was not written by `fastode train`" in one_line(fastode("sample", trained))


def test_a_damaged_config_is_refused(fastode, trained):
    (trained / "config.json").write_text("{")

    assert "config.json is damaged" in one_line(fastode("plot", trained))


def test_a_config_of_another_version_is_refused(fastode, trained):
    (trained / "config.json").write_text('{"data": "moons", "hidden": [8], "colour": 1}')

    assert "settings that this version does not know: colour" in one_line(fastode("plot", trained))


def test_data_that_changed_since_the_checkpoint_are_refused(fastode):
    rows = np.random.default_rng(0).standard_normal((60, 2))
    np.save("data.npy", rows)
    fastode("train", "data.npy", "--out", "run", "--no-plots", *TINY)
    np.save("data.npy", rows[:50])

    assert "belongs to 48 training rows" in one_line(fastode("train", "--resume", "run"))


def test_a_solve_that_fails_is_one_line_with_the_step(fastode):
    answer = fastode("train", "moons", "--no-plots", *TINY, "--lr", "1e30", "--clip", "1e30")

    assert answer.code == 1
    assert answer.err.startswith("fastode: step ") and len(answer.err.strip().splitlines()) == 1


def test_a_missing_extra_is_named_with_what_to_install(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr("fastode.cli.find_spec", lambda name: None if name in ("typer", "PIL") else real(name))

    assert main(["info"]) == 2
    assert capsys.readouterr().err == (
        "fastode: the command line needs typer, pillow; write: pip install 'torch-fastode[cli]'\n"
    )
