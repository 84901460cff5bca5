"""Steps and evaluations of a batch, counted: those its samples need alone, and those each library makes for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastode

from .batches import Batch
from .contest import Side, StepCounts, Tally
from .libraries import fastode_side, solve
from .problems import Counted

#: evaluations of an attempted step of dopri5
EVALUATIONS = 6


class CountedBySample(Counted):
    """Counts an evaluation once for each sample in the batch."""

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        self.evaluations[0] += len(y)
        return self.field(t, y, *args)


def count_steps(case: str, batch: Batch, peers: dict[str, Side], alone: Sequence[int]) -> StepCounts:
    """Solve the batch by every library, and the samples in ``alone`` by themselves."""
    with torch.no_grad():
        stats = solve(batch, batch.field).raise_for_status().stats
    tallies = {name: _tally(side, batch) for name, side in {"fastode": fastode_side(batch), **peers}.items()}
    in_batch = torch.stack([stats.n_accepted, stats.n_rejected, stats.n_func], dim=1).tolist()
    different = [i for i in alone if _alone(batch, i) != in_batch[i]]
    refused = ""
    if different and batch.field.alike:
        row = different[0]
        refused = (
            f"{len(different)} of {len(alone)} samples differ; sample {row} has accepted steps, rejected steps and "
            f"evaluations {in_batch[row]} in the batch and {_alone(batch, row)} alone"
        )
    return StepCounts(
        case, float(stats.n_func.double().mean()), tallies, len(alone), len(alone) - len(different), refused
    )


def _tally(side: Side, batch: Batch) -> Tally:
    counted = CountedBySample(batch.field)
    side.run(counted)
    own = counted.steps_by_sample
    mean = float(counted.steps if own is None else own.double().mean())
    return Tally(mean, counted.steps, counted.evaluations[0] / len(batch.y0))


def _alone(batch: Batch, row: int) -> list[int]:
    """Accepted steps, rejected steps and evaluations of one sample in a batch of its own; counted, not reported."""
    counted = CountedBySample(batch.field)
    with torch.no_grad():
        stats = solve(batch, counted, slice(row, row + 1)).raise_for_status().stats
    account = fastode.last_stats()
    assert account is not None
    # a device may be asked for attempts beyond the end, before the host knows of it
    needed = counted.evaluations[0] - EVALUATIONS * account.n_idle
    return [int(stats.n_accepted), int(stats.n_rejected), needed]
