"""Every example runs."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs_to_its_end(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
    before = torch.get_rng_state()

    runpy.run_path(str(path), run_name="__main__")

    torch.set_rng_state(before)
    assert capsys.readouterr().out


def test_all_six_examples_are_there_and_short():
    names = ["bouncing_ball", "cnf", "latent_ode", "neural_cde", "neural_ode", "time_to_quality"]
    assert [p.stem for p in EXAMPLES] == names
    assert all(len(p.read_text().splitlines()) < 150 for p in EXAMPLES)


def test_both_contestants_of_time_to_quality_learn_the_same(monkeypatch, tmp_path):
    path = EXAMPLES[-1]
    monkeypatch.setattr(sys, "argv", [str(path), "--quick", "--out", str(tmp_path / "race")])
    before = torch.get_rng_state()

    runpy.run_path(str(path), run_name="__main__")

    torch.set_rng_state(before)
    with (tmp_path / "race.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["solver", "step", "seconds", "held_out_nll"]
    theirs, ours = ([r for r in rows if r["solver"] == name] for name in ("torchdiffeq", "fastode"))
    assert [r["step"] for r in theirs] == [r["step"] for r in ours] == ["0", "1", "4"]
    assert [float(r["held_out_nll"]) for r in ours] == pytest.approx(
        [float(r["held_out_nll"]) for r in theirs], abs=1e-4
    )
    assert float(ours[0]["seconds"]) == 0.0 and float(ours[-1]["seconds"]) > float(ours[1]["seconds"]) > 0.0
    with Image.open(tmp_path / "race.png") as image:
        assert min(image.size) > 300


def test_a_contestant_of_time_to_quality_stops_when_its_seconds_are_over(monkeypatch, tmp_path):
    path = EXAMPLES[-1]
    monkeypatch.setattr(sys, "argv", [str(path), "--quick", "--seconds", "1e-9", "--out", str(tmp_path / "race")])
    before = torch.get_rng_state()

    runpy.run_path(str(path), run_name="__main__")

    torch.set_rng_state(before)
    with (tmp_path / "race.csv").open() as file:
        assert [r["step"] for r in csv.DictReader(file)] == ["0", "1", "0", "1"]
