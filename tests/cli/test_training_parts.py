"""The parts of ``fastode.training``."""

import json

import numpy as np
import pytest
import torch

from fastode import InvalidArgument, SolverError
from fastode.training import TOYS, TrainConfig, Trainer, gaussian_nll, held_out_nll, load_data
from fastode.training import checkpoint as checkpoint_module
from fastode.training.batches import BatchStream
from fastode.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from fastode.training.pictures.scene import make_scene
from fastode.training.tables import read_table

CONFIG = TrainConfig("moons", n_samples=200, steps=4, batch=16, hidden=(8, 8), eval_every=2, tol=1e-2)


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_density_is_centred_bounded_and_seeded(name):
    points = TOYS[name](4000, np.random.default_rng(0))

    assert points.shape == (4000, 2) and np.abs(points).max() < 6
    assert np.abs(points.mean(0)).max() < 0.6 and points.std(0).min() > 0.7
    assert np.array_equal(points, TOYS[name](4000, np.random.default_rng(0)))


def test_the_split_is_seeded_and_keeps_every_row_once(tmp_path):
    values = np.arange(200.0).reshape(100, 2) ** 1.5
    np.save(tmp_path / "x.npy", values)

    one, two, other = (load_data(str(tmp_path / "x.npy"), 0, seed) for seed in (0, 0, 1))

    assert [len(one.train), len(one.val), len(one.test)] == [80, 10, 10]
    assert torch.equal(one.test, two.test) and not torch.equal(one.test, other.test)
    together = torch.cat([one.train, one.val, one.test])
    assert sorted(together[:, 0].tolist()) == sorted(np.float32(values[:, 0]).tolist())


def test_a_csv_without_a_header_is_read(tmp_path):
    (tmp_path / "x.csv").write_text("\n".join(f"{i},{i * i}" for i in range(30)))

    values, names = read_table(tmp_path / "x.csv")

    assert values.shape == (30, 2) and names == ["x1", "x2"]


def test_integer_tables_become_float64(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60).reshape(30, 2))

    assert read_table(tmp_path / "x.npy")[0].dtype == np.float64


def test_an_epoch_visits_every_row_once_in_a_new_order():
    stream = BatchStream(12, 4, seed=0)

    epochs = [torch.cat([stream.next() for _ in range(3)]) for _ in range(2)]

    assert all(sorted(e.tolist()) == list(range(12)) for e in epochs)
    assert not torch.equal(*epochs)


def test_a_batch_is_never_larger_than_the_training_set():
    assert len(BatchStream(5, 100, seed=0).next()) == 5


def test_the_learning_rate_warms_up_and_falls_to_nearly_zero():
    config = TrainConfig("moons", steps=100, lr=0.5)
    rates = [config.learning_rate(step) for step in range(100)]

    assert rates[0] == pytest.approx(0.05) and max(rates) == rates[9] == rates[10] == 0.5
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 1e-3


def test_the_yardstick_is_the_gaussians_likelihood():
    torch.manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    gaussian = torch.distributions.MultivariateNormal(x[:150].mean(0), torch.cov(x[:150].T, correction=0))

    assert gaussian_nll(x[:150], x[150:]) == pytest.approx(-float(gaussian.log_prob(x[150:]).mean()), rel=1e-10)


def test_an_untrained_flow_has_the_yardsticks_likelihood_in_the_units_of_the_data():
    data = load_data("moons", 400, 0)
    flow = Trainer(CONFIG, data).flow

    # float32 data against float64
    assert held_out_nll(flow, data.test, 1e-5) == pytest.approx(gaussian_nll(data.train, data.test), rel=1e-5)


def test_a_checkpoint_returns_tensors_and_values_exactly(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4, dtype=torch.uint8)}

    save_checkpoint(tmp_path / "c.safetensors", tensors, {"step": 3, "x": [0.1, None]})
    loaded, values = load_checkpoint(tmp_path / "c.safetensors")

    assert values == {"step": 3, "x": [0.1, None]}
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[k], tensors[k]) for k in tensors)


def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_trainers_state_is_plain_json_and_tensors():
    trainer = Trainer(CONFIG, load_data("moons", 200, 0))
    trainer.train_step()

    tensors, values = trainer.state()

    assert json.loads(json.dumps(values))["step"] == 1
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())
    assert {"rng.torch", "rng.batches", "batches.order"} <= tensors.keys()
    assert any(name.startswith("optimizer.") for name in tensors)


def test_the_best_parameters_are_those_of_the_best_validation(monkeypatch):
    trainer = Trainer(CONFIG, load_data("moons", 200, 0))
    scores = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr("fastode.training.trainer.held_out_nll", lambda *args: next(scores))
    snapshots = []
    for _ in range(3):
        trainer.train_step()
        trainer.validate()
        snapshots.append({k: v.clone() for k, v in trainer.flow.state_dict().items()})

    assert trainer.best_step == 2 and trainer.best_val == 1.0
    assert all(torch.equal(trainer.best[k], snapshots[1][k]) for k in trainer.best)


def test_a_loss_that_is_not_finite_stops_before_the_parameters_are_touched():
    data = load_data("moons", 200, 0)
    trainer = Trainer(CONFIG, data)
    data.train.mul_(float("nan"))
    before = {k: v.clone() for k, v in trainer.flow.state_dict().items()}

    with pytest.raises(SolverError):
        trainer.train_step()

    assert all(torch.equal(v, before[k]) for k, v in trainer.flow.state_dict().items()) and trainer.step == 0


def test_pictures_of_many_columns_show_two_principal_components_and_say_so(tmp_path):
    torch.manual_seed(0)
    # columns 1 and 3 go together, columns 2 and 4 too; their units must not matter
    pairs = torch.randn(300, 2)[:, [0, 1, 0, 1]] + 0.05 * torch.randn(300, 4)
    np.save(tmp_path / "x.npy", (pairs * torch.tensor([5.0, 0.1, 300.0, 1.0])).numpy())
    data = load_data(str(tmp_path / "x.npy"), 0, 0)

    scene = make_scene(Trainer(CONFIG, data).best_flow(), data)

    assert scene.note == "first two of 4 principal components: 100 % of the standardised variance"
    plane = scene.project(data.train)
    assert np.abs(plane.mean(0)).max() < 1e-4 and abs(np.corrcoef(plane.T)[0, 1]) < 1e-4


def test_a_scene_of_the_plane_has_a_density_that_integrates_to_one():
    data = load_data("moons", 400, 0)
    scene = make_scene(Trainer(CONFIG, data).best_flow(), data)
    left, right, bottom, top = scene.limits

    for t in (0.0, 0.5, 1.0):
        mass = scene.density(60, t).sum() * (right - left) * (top - bottom) / 59**2
        # the frame cuts the tails of the base
        assert 0.85 < mass < 1.05


def test_a_setting_out_of_range_is_refused_when_the_config_is_made():
    with pytest.raises(InvalidArgument, match=r"`--eval-every 0`: it must be at least 1"):
        TrainConfig("moons", eval_every=0)
