"""Every example runs."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs_to_its_end(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
    before = torch.get_rng_state()

    runpy.run_path(str(path), run_name="__main__")

    torch.set_rng_state(before)
    assert capsys.readouterr().out


def test_all_four_examples_are_there_and_short():
    assert [p.stem for p in EXAMPLES] == ["bouncing_ball", "cnf", "latent_ode", "neural_ode"]
    assert all(len(p.read_text().splitlines()) < 150 for p in EXAMPLES)
