"""A latent ODE: spirals seen at irregular times, encoded backwards in time, decoded along an ODE.

    python examples/latent_ode.py            about a minute
    python examples/latent_ode.py --quick    a few steps, to see that it runs

An encoder reads the noisy points from last to first and gives a Gaussian over the latent state at t = 0; the
latent state follows a neural ODE; a decoder turns it into points. After Chen et al., "Neural Ordinary
Differential Equations", NeurIPS 2018, section 5.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from fastode.nn import NeuralODE

LATENT, NOISE = 4, 0.1


def make_spirals(n: int, times: Tensor) -> Tensor:
    """``n`` spirals at ``times: [T]`` as ``[T, n, 2]``: half grow, half turn the other way and shrink."""
    turn = torch.where(torch.rand(n) < 0.5, 1.0, -1.0)
    angle = turn * times[:, None] + 2 * torch.pi * torch.rand(n)
    radius = 1.0 + 0.25 * turn * (times[:, None] - 3.0) / 3.0
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


class LatentField(nn.Module):
    """The latent derivative, which does not depend on time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(LATENT, 32), nn.Tanh(), nn.Linear(32, LATENT))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The derivative at ``z: [B, LATENT]``."""
        out: Tensor = self.net(z)
        return out


class LatentODE(nn.Module):
    """Encoder, ODE, decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, 32)
        self.head = nn.Linear(32, 2 * LATENT)
        self.ode = NeuralODE(LatentField(), rtol=1e-3, atol=1e-4)
        self.decoder = nn.Sequential(nn.Linear(LATENT, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, points: Tensor, times: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Read points at some times and predict them at others.

        Args:
            points: ``[T, B, 2]``; seen at ``times: [T]``.
            at: ``[S]`` increasing; times to predict.

        Returns:
            Predictions ``[S, B, 2]`` and ``KL(q(z0) | N(0, 1)): [B]``.
        """
        gaps = torch.diff(times, prepend=times[:1])[:, None, None].expand(-1, points.shape[1], 1)
        _, hidden = self.encoder(torch.cat([points, gaps], -1).flip(0))
        mean, log_std = self.head(hidden[0]).chunk(2, -1)
        z0 = mean + log_std.exp() * torch.randn_like(mean)
        kl = (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum(-1)
        # the latent state lives at t = 0, which may come before the first prediction
        path = self.ode(z0, torch.cat([at.new_zeros(1), at]))[1:]
        return self.decoder(path), kl


def main() -> float:
    """Train, and return the root mean square error on times that were never seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    steps = 5 if args.quick else args.steps

    torch.manual_seed(0)
    # irregular times; the last quarter is kept back to test extrapolation
    times = 0.1 + 6.0 * torch.sort(torch.rand(40)).values
    clean = make_spirals(600, times)
    noisy = clean + NOISE * torch.randn_like(clean)
    train, test, seen = noisy[:, :500], noisy[:, 500:], 30

    model = LatentODE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        batch = train[:, torch.randint(500, (100,))]
        predicted, kl = model(batch[:seen], times[:seen], times[:seen])
        nll = (0.5 * ((predicted - batch[:seen]) / NOISE) ** 2).sum((0, 2))
        loss = (nll + kl).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        schedule.step()
        if step % max(steps // 8, 1) == 0:
            ms = 1000 * (time.perf_counter() - began) / step
            print(f"step {step:4d}   negative ELBO {loss.item():9.2f}   {ms:.0f} ms/step")

    with torch.no_grad():
        predicted, _ = model(test[:seen], times[:seen], times)
    error = (predicted - clean[:, 500:]).square().mean((1, 2)).sqrt()
    early, late = error[:seen].mean().item(), error[seen:].mean().item()
    print(f"error where seen {early:.3f}, later {late:.3f} (noise of the data {NOISE})")
    return late


if __name__ == "__main__":
    main()
