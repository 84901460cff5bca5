"""Flows trained on data that ship with scikit-learn beat a full-covariance Gaussian on held-out rows."""

import numpy as np
import pytest
import torch

from fastode.nn import CNF, Affine, MLPField


def split(x, seed=0):
    x = torch.from_numpy(x[np.random.default_rng(seed).permutation(len(x))]).float()
    n = len(x) // 5
    return x[2 * n :], x[n : 2 * n], x[:n]


def gaussian_log_prob(train, test):
    """Mean log-density of ``test`` under the Gaussian with mean and full covariance of ``train``."""
    train, test = train.double(), test.double()
    gaussian = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T, correction=0))
    return float(gaussian.log_prob(test).mean())


def train_flow(train, val, affine, hidden, steps, batch, lr):
    """Maximum likelihood with weight decay; returns the parameters that did best on ``val``."""
    torch.manual_seed(0)
    cnf = CNF(MLPField(train.shape[1], hidden, zero_init=True), affine=affine, rtol=1e-3, atol=1e-3)
    optimizer = torch.optim.AdamW(cnf.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    best, best_state = -float("inf"), None
    for step in range(steps):
        rows = train[torch.randint(len(train), (batch,))]
        optimizer.zero_grad()
        (-cnf.log_prob(rows).mean()).backward()
        torch.nn.utils.clip_grad_norm_(cnf.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 20 == 0:
            with torch.no_grad():
                score = float(cnf.log_prob(val).mean())
            if score > best:
                best, best_state = score, {k: v.clone() for k, v in cnf.state_dict().items()}
    cnf.load_state_dict(best_state)
    return cnf.with_tolerance(1e-5, 1e-5)


@pytest.mark.slow
def test_a_flow_beats_the_gaussian_on_breast_cancer_measurements():
    datasets = pytest.importorskip("sklearn.datasets")
    train, val, test = split(datasets.load_breast_cancer().data)
    scale = train.std(0)
    train, val, test = train / scale, val / scale, test / scale

    cnf = train_flow(train, val, Affine.whitening(train), hidden=(64, 64), steps=200, batch=256, lr=5e-3)

    with torch.no_grad():
        flow = float(cnf.log_prob(test).mean())
    assert flow > gaussian_log_prob(train, test) + 1.0


@pytest.mark.slow
def test_a_flow_beats_the_gaussian_on_dequantised_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    pixels = datasets.load_digits().data
    # uniform noise turns the 17 grey levels into a density (Theis et al., ICLR 2016, section 3.1)
    x = (pixels + np.random.default_rng(0).random(pixels.shape)) / 17
    train, val, test = split(x)

    cnf = train_flow(train, val, Affine.whitening(train), hidden=(128, 128), steps=300, batch=256, lr=5e-3)

    with torch.no_grad():
        flow = float(cnf.log_prob(test).mean())
    assert flow > gaussian_log_prob(train, test) + 1.0
