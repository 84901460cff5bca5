"""How long until a flow is good? The same training run by torchdiffeq and by fastode, likelihood against seconds.

    python examples/time_to_quality.py --out time-to-quality    about four minutes; writes a .csv and a .png
    python examples/time_to_quality.py --quick                  a few steps, to see that it runs

One flow, two contestants. Data, initial weights, batches, optimizer, schedule and tolerances are the same; what
differs is who solves the equation: torchdiffeq's ``odeint_adjoint`` with the trace by autograd, as in its own example
of a flow, or fastode's ``CNF``, which compiles the field. Both are judged by the same careful solve, which the clock
leaves out.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastode.nn import CNF, Affine, MLPField
from fastode.training import TOYS, held_out_nll

TOL, CAREFUL_TOL = 1e-5, 1e-6
LogProb = Callable[[Tensor], Tensor]


class WithTrace(nn.Module):
    """``d(z, l)/dt = (f, tr(df/dz))``, the trace by one backward pass a dimension."""

    def __init__(self, func: nn.Module) -> None:
        super().__init__()
        self.func = func

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Slopes of the points and of the logarithm of the volume."""
        with torch.enable_grad():
            z = state[0].requires_grad_()
            f = self.func(t, z)
            grads = [torch.autograd.grad(f[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(z.shape[1])]
            return f, torch.stack(grads).sum(0)


def log_prob_by_torchdiffeq(cnf: CNF, affine: Affine) -> LogProb:
    """``cnf.log_prob``, solved by torchdiffeq."""
    from torchdiffeq import odeint_adjoint

    func, span = WithTrace(cnf.func), torch.tensor([1.0, 0.0])

    def log_prob(x: Tensor) -> Tensor:
        state = (affine.inverse(x), torch.zeros(len(x)))
        z, log_det = odeint_adjoint(func, state, span, rtol=TOL, atol=TOL, method="dopri5")
        return cnf.base.log_prob(z[-1]) + log_det[-1] - affine.log_det()

    return log_prob


def train(
    name: str, train_rows: Tensor, test_rows: Tensor, args: argparse.Namespace
) -> list[tuple[str, int, float, float]]:
    """Rows ``(name, step, seconds, held-out negative log-likelihood)`` of one contestant."""
    torch.manual_seed(args.seed)
    affine = Affine.whitening(train_rows)
    field = MLPField(2, hidden=(args.hidden, args.hidden), layer="concat", zero_init=True)
    cnf, judge = (
        CNF(field, affine=affine, rtol=TOL, atol=TOL) for _ in range(2)
    )  # each with its own trace of the field
    log_prob = cnf.log_prob if name == "fastode" else log_prob_by_torchdiffeq(cnf, affine)
    optimizer = torch.optim.Adam(field.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    # more looks at the beginning, where more happens
    looks = {round(args.steps * (i / args.looks) ** 2) for i in range(1, args.looks)} | {args.steps}
    seconds = 0.0
    rows = [(name, 0, seconds, held_out_nll(judge, test_rows, CAREFUL_TOL))]
    for step in range(1, args.steps + 1):
        batch = train_rows[torch.randint(len(train_rows), (args.batch,))]
        began = time.perf_counter()
        loss = -log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(field.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - began
        over = seconds >= args.seconds
        if step in looks or over:
            rows.append((name, step, seconds, held_out_nll(judge, test_rows, CAREFUL_TOL)))
            print(f"{name:12} step {step:5d}   {seconds:7.2f} s   {rows[-1][3]:.4f} nats")
        if over:
            break
    return rows


def draw(rows: list[tuple[str, int, float, float]], title: str, path: Path) -> None:
    """Likelihood against seconds, one line a contestant."""
    from fastode.training.pictures.style import DATA, SAMPLES, look, new_figure, save

    with look():
        figure = new_figure(7.5, 4.5, title)
        axes = figure.subplots()
        for name, colour in (("torchdiffeq", SAMPLES), ("fastode", DATA)):
            points = [(s, nll) for who, step, s, nll in rows if who == name and step > 0]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, ms=3, lw=1.5, label=name)
        axes.set(xlabel="seconds of training", ylabel="held-out negative log-likelihood, nats", xscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True)
        axes.legend()
        save(figure, path)


def main() -> dict[str, float]:
    """Train both, and return the last held-out negative log-likelihood of each in nats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--data", default="moons", choices=sorted(TOYS))
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop a contestant after these")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=64, help="width of both hidden layers")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--looks", type=int, default=40, help="evaluations on held-out points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write OUT.csv and OUT.png")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.batch, args.hidden, args.looks = 4, 64, 8, 2

    points = torch.from_numpy(TOYS[args.data](24_000, np.random.default_rng(args.seed))).float()
    test_rows, train_rows = points[:4000], points[4000:]
    rows = [row for name in ("torchdiffeq", "fastode") for row in train(name, train_rows, test_rows, args)]
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.with_suffix(".csv").open("w", newline="") as file:
            csv.writer(file).writerows([("solver", "step", "seconds", "held_out_nll"), *rows])
        title = (
            f"{args.data}, batches of {args.batch}, 2-{args.hidden}-{args.hidden}-2, {torch.get_num_threads()} threads"
        )
        draw(rows, title, args.out.with_suffix(".png"))
        print(f"written: {args.out.with_suffix('.csv')}, {args.out.with_suffix('.png')}")
    return {name: nll for name, _, _, nll in rows}


if __name__ == "__main__":
    main()
