"""``fastode train`` from start to finish."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fastode.training import RunFolder, StopRequest, TrainConfig, Trainer, fit, load_data

from .conftest import TINY


def losses(folder):
    return [m["loss"] for m in RunFolder(folder).read_metrics() if "loss" in m]


def validations(folder):
    return [m["val_nll"] for m in RunFolder(folder).read_metrics() if "val_nll" in m]


def write_table(path):
    values = np.random.default_rng(0).standard_normal((60, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.2], [0, 0, 2.0]])
    frame = pd.DataFrame(values, columns=["a", "b", "c"])
    writers = {
        ".npy": lambda: np.save(path, values),
        ".npz": lambda: np.savez(path, x=values, y=np.zeros(3)),
        ".csv": lambda: frame.to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path),
    }
    writers[path.suffix]()


def test_training_writes_metrics_a_checkpoint_and_a_result(fastode):
    answer = fastode("train", "moons", "--no-plots", *TINY)

    assert answer.code == 0, answer.err
    assert "Gaussian, full covariance" in answer.out and "runs/moons" in answer.out
    metrics = RunFolder(Path("runs/moons")).read_metrics()
    assert [m["step"] for m in metrics if "loss" in m] == [1, 2, 3, 4]
    assert [m["step"] for m in metrics if "val_nll" in m] == [0, 2, 4]
    assert all(m["nfe_forward"] > 0 and m["nfe_backward"] > 0 and m["seconds"] > 0 for m in metrics if "loss" in m)
    result = json.loads(Path("runs/moons/result.json").read_text())
    assert np.isfinite(result["test_nll"]) and np.isfinite(result["gaussian_nll"])
    assert Path("runs/moons/checkpoint.safetensors").is_file()


def test_a_method_that_cannot_train_leaves_no_folder_behind(fastode):
    answer = fastode("train", "moons", "--method", "euler", *TINY)

    assert answer.code == 2
    assert not Path("runs").exists()


def test_the_seconds_of_a_run_are_those_of_all_its_sittings(fastode, trained):
    before = json.loads((trained / "result.json").read_text())["train_seconds"]

    assert fastode("train", "--resume", trained, "--no-plots").code == 0

    steps = [m["seconds"] for m in RunFolder(trained).read_metrics() if "loss" in m]
    assert json.loads((trained / "result.json").read_text())["train_seconds"] == before == round(sum(steps), 2)


def test_training_on_the_plane_draws_every_picture_and_lists_it(fastode):
    answer = fastode("train", "circles", "--out", "run", *TINY)

    assert answer.code == 0, answer.err
    for name in ("samples.png", "density.png", "flow.png", "staircase.png", "training.png", "flow.gif"):
        assert f"run/{name}" in answer.out
        with Image.open(Path("run") / name) as image:
            assert min(image.size) > 300
            assert getattr(image, "n_frames", 1) == (48 if name == "flow.gif" else 1)
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_training_on_more_columns_draws_their_principal_components(fastode):
    write_table(Path("table.csv"))

    answer = fastode("train", "table.csv", "--out", "run", *TINY)

    assert answer.code == 0, answer.err
    assert "samples.png" in answer.out and "flow.gif" in answer.out and "density.png" not in answer.out


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_a_table_can_be_trained_on(fastode, suffix):
    write_table(Path(f"table{suffix}"))

    answer = fastode("train", f"table{suffix}", "--no-plots", *TINY)

    assert answer.code == 0, answer.err
    assert "48 + 6 + 6 rows" in answer.out and "3 columns" in answer.out


def test_all_formats_of_one_table_give_the_same_losses(fastode):
    for suffix in (".npy", ".csv", ".parquet"):
        write_table(Path(f"table{suffix}"))
        fastode("train", f"table{suffix}", "--no-plots", "--out", f"run{suffix}", *TINY)

    assert losses(Path("run.npy")) == losses(Path("run.csv")) == losses(Path("run.parquet"))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_resumed_run_repeats_an_uninterrupted_one_exactly(fastode, trace):
    config = TrainConfig("moons", n_samples=200, steps=9, batch=50, hidden=(8, 8), eval_every=3, tol=1e-2, trace=trace)
    whole = RunFolder(Path("whole"))
    whole.create(config)
    fit(Trainer(config, load_data("moons", 200, 0)), whole, StopRequest(), lambda r: None, lambda s, v: None)

    part, stop = RunFolder(Path("part")), StopRequest()
    part.create(config)

    def stop_after_four(record):
        stop.requested = record.step == 4

    finished = fit(Trainer(config, load_data("moons", 200, 0)), part, stop, stop_after_four, lambda s, v: None)
    assert not finished and len(losses(part.path)) == 4
    answer = fastode("train", "--resume", "part", "--no-plots")

    assert answer.code == 0, answer.err
    assert losses(part.path) == losses(whole.path) and len(losses(part.path)) == 9
    assert validations(part.path) == validations(whole.path)


def test_resuming_takes_steps_after_the_checkpoint_again(fastode):
    fastode("train", "moons", "--out", "run", "--no-plots", *TINY)
    before = losses(Path("run"))
    with Path("run/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 9.0}\n{"step": 6, "lo')

    assert fastode("train", "--resume", "run", "--no-plots").code == 0
    assert losses(Path("run")) == before


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_resume(tmp_path):
    command = [
        sys.executable,
        "-m",
        "fastode",
        "train",
        "moons",
        "--out",
        str(tmp_path / "run"),
        "--threads",
        "1",
    ]
    command += ["--steps", "100000", "--n-samples", "200", "--hidden", "8,8", "--no-plots"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130 and "Traceback" not in err
    assert f"fastode train --resume {tmp_path / 'run'}" in out
    trainer = Trainer(RunFolder(tmp_path / "run").read_config(), load_data("moons", 200, 0))
    RunFolder(tmp_path / "run").load(trainer)
    assert trainer.step == len(losses(tmp_path / "run")) > 0


def test_standardising_can_be_chosen(fastode):
    assert fastode("train", "moons", "--scale", "standardise", "--no-plots", *TINY).code == 0


@pytest.mark.parametrize("gradient", ["autograd", "backsolve"])
def test_the_other_gradients_train_too(fastode, gradient):
    assert fastode("train", "moons", "--gradient", gradient, "--no-plots", *TINY).code == 0


def test_a_run_says_which_engine_solved_it(fastode, monkeypatch):
    assert "solved by the engine compiled\n" in fastode("train", "moons", "--no-plots", "--out", "a", *TINY).out
    assert (
        "solved by the engine native\n"
        in fastode("train", "moons", "--no-plots", "--out", "b", "--no-compile", *TINY).out
    )
    monkeypatch.setenv("FASTODE_ENGINE", "native")
    answer = fastode("train", "moons", "--no-plots", "--out", "c", *TINY)
    assert "solved by the engine native (not native: FASTODE_ENGINE=native)\n" in answer.out
    engines = [{m["engine"] for m in RunFolder(Path(run)).read_metrics() if "loss" in m} for run in "abc"]
    assert engines == [{"compiled"}, {"native"}, {"native"}]


def test_the_compiled_engine_trains_as_the_step_loop_does(fastode):
    assert fastode("train", "moons", "--no-plots", "--out", "a", *TINY).code == 0
    assert fastode("train", "moons", "--no-plots", "--out", "b", "--no-compile", *TINY).code == 0

    np.testing.assert_allclose(losses(Path("a")), losses(Path("b")), rtol=1e-4)


def test_a_run_from_before_the_engine_could_be_chosen_is_resumed(fastode, trained):
    config = json.loads((trained / "config.json").read_text())
    del config["compile"]
    (trained / "config.json").write_text(json.dumps(config))

    assert fastode("train", "--resume", trained, "--no-plots").code == 0


def test_a_batch_of_more_rows_than_there_are_takes_all_of_them_and_says_so(fastode):
    tiny = [*TINY, "--batch", "65536"]

    answer = fastode("train", "moons", "--no-plots", *tiny)

    assert answer.code == 0, answer.err
    assert "every step takes all 160 training rows (`--n-samples` draws more)" in answer.out
    assert "every step" not in fastode("train", "moons", "--no-plots", "--out", "small", *TINY).out


def test_a_wide_table_trains_with_the_settings_of_ffjord(fastode):
    np.save("table.npy", np.random.default_rng(0).standard_normal((60, 43)))
    settings = "--hidden 86,86 --layer concatsquash --activation softplus --trace hutchinson --noise gaussian"
    more = "--steps 1 --batch 1000 --lr 1e-3 --weight-decay 1e-6 --scale standardise --eval-tol 1e-2"

    answer = fastode("train", "table.npy", "--no-plots", *settings.split(), *more.split())

    assert answer.code == 0, answer.err
    assert "43 columns" in answer.out and "solved by the engine compiled" in answer.out
