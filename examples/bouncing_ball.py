"""A ball that bounces: events end each flight, and gradients pass through the times of the bounces.

    python examples/bouncing_ball.py            a few seconds
    python examples/bouncing_ball.py --quick    fewer optimizer steps

First the flights are compared with the closed formula. Then the initial speed is learned so that the third
bounce comes at a given time: the derivative of an event's time follows from the implicit function theorem.
After Chen, Amos, Nickel, "Learning neural event functions for ordinary differential equations", ICLR 2021.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn

from fastode import odeint_event

KEPT = 0.8  # part of the speed that survives a bounce


class Ball(nn.Module):
    """Height and speed under gravity: ``dh/dt = v``, ``dv/dt = -g``; hits the ground where ``h = 0``."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.gravity = 9.81
        self.speed = nn.Parameter(torch.tensor(speed, dtype=torch.float64))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The derivative of ``(height, speed)``."""
        height, speed = state
        return speed, torch.full_like(height, -self.gravity)

    def bounces(self, n: int) -> Tensor:
        """Times of the first ``n`` bounces as ``[n]``, thrown upwards from the ground at time 0."""
        times = [torch.zeros((), dtype=torch.float64)]
        speed = self.speed
        for _ in range(n):
            # a hair above the ground: the ground itself is where the last event was
            state = (torch.full_like(speed, 1e-9), speed)
            event_t, (_, speeds) = odeint_event(self, state, times[-1], event_fn=hits_ground, rtol=1e-10, atol=1e-10)
            times.append(event_t.reshape(()))
            speed = -KEPT * speeds[-1]
        return torch.stack(times[1:])


def hits_ground(t: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    """Zero where the height is."""
    return state[0]


def main() -> float:
    """Learn the speed; return how far the third bounce is from its goal, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer optimizer steps")
    args = parser.parse_args()

    ball = Ball(speed=5.0)
    with torch.no_grad():
        times = ball.bounces(5)
    flights = 2 * 5.0 / ball.gravity * KEPT ** torch.arange(5, dtype=torch.float64)
    for i, (time, exact) in enumerate(zip(times.tolist(), flights.cumsum(0).tolist(), strict=True), 1):
        print(f"bounce {i} at {time:.6f} s   (formula {exact:.6f} s)")

    goal = 3.0
    optimizer = torch.optim.SGD(ball.parameters(), lr=2.0)
    for step in range(1, (5 if args.quick else 20) + 1):
        third = ball.bounces(3)[-1]
        loss = (third - goal) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step:3d}   third bounce at {third.item():.5f} s   speed {ball.speed.item():.5f} m/s")
    exact_speed = goal * ball.gravity / (2 * (1 + KEPT + KEPT**2))
    with torch.no_grad():
        miss = abs(float(ball.bounces(3)[-1]) - goal)
    print(f"learned speed {ball.speed.item():.6f} m/s, exact {exact_speed:.6f} m/s, miss {miss:.1e} s")
    assert math.isfinite(miss)
    return miss


if __name__ == "__main__":
    main()
