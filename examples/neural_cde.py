"""A neural CDE: tells which way a spiral turns from points seen at irregular times.

    python examples/neural_cde.py            about ten seconds
    python examples/neural_cde.py --quick    a few steps, to see that it runs

The hidden state follows ``dz = f(z) dX``, where X is the line through the points of one spiral, time among its
channels. The field finds the piece of X that the time is in and takes its slope from a table with an entry for each
spiral; it compiles all the same. After Kidger, Morrill, Foster, Lyons, "Neural Controlled Differential Equations for
Irregular Time Series", NeurIPS 2020.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

import fastode

POINTS, HIDDEN, CHANNELS = 30, 8, 3


def make_spirals(n: int, times: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy spirals at ``times: [T]``: paths ``[n, T, 3]`` of time and place, and which way each turns, ``[n]``."""
    turn = torch.where(torch.rand(n) < 0.5, 1.0, -1.0)
    angle = turn[:, None] * times + 2 * torch.pi * torch.rand(n, 1)
    radius = torch.rand(n, 1) + times / times[-1]
    place = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    place += 0.3 * torch.randn_like(place)
    return torch.cat([times.expand(n, -1)[..., None], place], -1), (turn + 1) / 2


class ControlledByPath(nn.Module):
    """``dz/dt = f(z) dX/dt``; a path's slope on each of its pieces is an argument."""

    knots: Tensor

    def __init__(self, knots: Tensor) -> None:
        super().__init__()
        self.register_buffer("knots", knots)
        self.net = nn.Sequential(nn.Linear(HIDDEN, 64), nn.SiLU(), nn.Linear(64, HIDDEN * CHANNELS), nn.Tanh())

    def forward(self, t: Tensor, z: Tensor, slopes: Tensor) -> Tensor:
        """The derivative at ``z: [B, HIDDEN]``, driven by ``slopes: [B, pieces, CHANNELS]``."""
        piece = (torch.bucketize(t, self.knots) - 1).clamp(0, len(self.knots) - 2)
        return (self.net(z).view(-1, HIDDEN, CHANNELS) @ slopes[:, piece, :, None]).squeeze(-1)


class NeuralCDE(nn.Module):
    """First point, CDE, answer. The steps of the solve are those between the points."""

    def __init__(self, times: Tensor) -> None:
        super().__init__()
        self.start = nn.Linear(CHANNELS, HIDDEN)
        self.field = fastode.compile(ControlledByPath(times))
        self.answer = nn.Linear(HIDDEN, 1)

    def forward(self, paths: Tensor) -> Tensor:
        """Paths ``[B, T, CHANNELS]`` to logits ``[B]``."""
        times: Tensor = self.field.knots
        slopes = paths.diff(dim=1) / times.diff()[:, None]
        z = fastode.odeint(self.field, self.start(paths[:, 0]), times, slopes, method="midpoint")
        return self.answer(z[-1])[:, 0]


def main() -> float:
    """Train, and return the share of right answers about spirals that were never seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    steps = 5 if args.quick else args.steps

    torch.manual_seed(0)
    times = torch.sort(torch.rand(POINTS)).values
    times = 3.0 * (times - times[0]) / (times[-1] - times[0])
    (train, turns), (test, turned) = make_spirals(500, times), make_spirals(500, times)

    model = NeuralCDE(times)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        batch = torch.randint(500, (100,))
        loss = nn.functional.binary_cross_entropy_with_logits(model(train[batch]), turns[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(steps // 8, 1) == 0:
            ms = 1000 * (time.perf_counter() - began) / step
            print(f"step {step:4d}   loss {loss.item():.3f}   {ms:.1f} ms/step   engine {fastode.last_stats().engine}")

    with torch.no_grad():
        right = ((model(test) > 0) == (turned > 0)).double().mean().item()
    print(f"right about {100 * right:.1f} % of 500 spirals that were never seen")
    return right


if __name__ == "__main__":
    main()
