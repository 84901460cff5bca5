"""Fit a continuous normalizing flow to two moons, in forty lines of ordinary PyTorch.

    python examples/cnf.py                       about half a minute
    python examples/cnf.py --out moons.png       and draw data beside samples
    python examples/cnf.py --quick               a few steps, to see that it runs

The same from the command line, with checkpoints and more pictures: ``fastode train moons``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastode
from fastode.nn import CNF, Affine, MLPField
from fastode.training import TOYS


def draw(data: Tensor, samples: Tensor, path: Path) -> None:
    """Write a picture of data and samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, points, title in zip(figure.subplots(1, 2), (data, samples), ("data", "samples"), strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=3, alpha=0.4, linewidths=0)
        axes.set(title=title, xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    figure.savefig(path, dpi=150)


def main() -> float:
    """Train, and return the negative log-likelihood of held-out points in nats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--trace", default="exact", choices=["exact", "hutchinson"])
    parser.add_argument("--out", type=Path, help="write a picture here")
    args = parser.parse_args()
    steps = 20 if args.quick else args.steps

    torch.manual_seed(0)
    points = torch.from_numpy(TOYS["moons"](12_000, np.random.default_rng(0))).float()
    train, test = points[2000:], points[:2000]

    # whitening makes the untrained flow the data's Gaussian: training starts there and can only improve
    cnf = CNF(
        MLPField(2, hidden=(64, 64), zero_init=True),
        affine=Affine.whitening(train),
        trace=args.trace,
        rtol=1e-3,
        atol=1e-3,
    )
    optimizer = torch.optim.Adam(cnf.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps, pct_start=0.1)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        batch = train[torch.randint(len(train), (512,))]
        with fastode.stats() as log:
            loss = -cnf.log_prob(batch).mean()
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(cnf.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % max(steps // 8, 1) == 0:
            ms = 1000 * (time.perf_counter() - began) / step
            print(f"step {step:5d}   loss {loss.item():.4f}   evaluations {log.n_func}   {ms:.0f} ms/step")

    careful = cnf.with_tolerance(1e-5, 1e-5, trace="exact")
    with torch.no_grad():
        nll = -float(careful.log_prob(test).mean())
        gaussian = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T))
        yardstick = -float(gaussian.log_prob(test).mean())
    print(f"held-out negative log-likelihood: flow {nll:.4f}, Gaussian {yardstick:.4f} nats")
    if args.out:
        draw(test, careful.sample(2000), args.out)
        print(f"picture: {args.out}")
    return nll


if __name__ == "__main__":
    main()
