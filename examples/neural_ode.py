"""Learn the field of a spiral from noisy pieces of its path.

    python examples/neural_ode.py            about half a minute
    python examples/neural_ode.py --quick    a few steps, to see that it runs

The data are states of ``dy/dt = A y^3``; the model is an MLP that has to find the right-hand side from them.
After Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018, and the first demo of torchdiffeq.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from fastode import odeint
from fastode.nn import NeuralODE

A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def spiral(t: Tensor, y: Tensor) -> Tensor:
    """The true field."""
    return (y**3) @ A


class CubicField(nn.Module):
    """An MLP on the cubes of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        for layer in (self.net[0], self.net[2]):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The derivative at ``y: [B, 2]``."""
        out: Tensor = self.net(y**3)
        return out


def main() -> float:
    """Train, and return the mean error of the whole path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--gradient", default="discrete", choices=["autograd", "discrete", "backsolve"])
    args = parser.parse_args()
    steps = 10 if args.quick else args.steps

    torch.manual_seed(0)
    t = torch.linspace(0, 25, 1000)
    start = torch.tensor([[2.0, 0.0]])
    with torch.no_grad():
        path = odeint(spiral, start, t, rtol=1e-7, atol=1e-9)[:, 0]

    model = NeuralODE(CubicField(), gradient=args.gradient, rtol=1e-5, atol=1e-6)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    window, batch = 20, 40
    began = time.perf_counter()
    for step in range(1, steps + 1):
        first = torch.randint(len(t) - window, (batch,))
        # the field does not depend on time, so every piece may start at t = 0
        predicted = model(path[first], t[:window])
        observed = torch.stack([path[first + i] for i in range(window)])
        loss = (predicted - observed).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(steps // 8, 1) == 0:
            ms = 1000 * (time.perf_counter() - began) / step
            print(f"step {step:5d}   error on pieces {loss.item():.5f}   {ms:.1f} ms/step")

    with torch.no_grad():
        error = float((model(start, t)[:, 0] - path).abs().mean())
    print(f"mean error on the whole path, t from 0 to 25: {error:.4f}")
    return error


if __name__ == "__main__":
    main()
