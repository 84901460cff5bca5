"""Steps and evaluations of each sample of a batch: as many as if it was solved alone, and how many are wasted."""

from __future__ import annotations

import functools

from ..batches import COUNTED_KINDS, SIZES, batch
from ..contest import Case
from ..libraries import PEERS, absent
from ..steps import StepCounts, count_steps

#: up to this many samples all are solved alone, of more only :data:`SAMPLED`, evenly spread; on a GPU, where a solve of
#: one sample takes as long as that of all, never more than these
ALL = 256
SAMPLED = 32


def _count(name: str, kind: str, count: int, *, device: str) -> StepCounts:
    problem = batch(kind, count, device)
    peers = {peer: PEERS[peer](problem) for peer in ("torchode", "torchdiffeq") if not absent(peer, device)}
    few = count <= (ALL if device == "cpu" else SAMPLED)
    alone = range(count) if few else [i * (count - 1) // (SAMPLED - 1) for i in range(SAMPLED)]
    return count_steps(name, problem, peers, alone)


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """Every batch."""
    return [
        Case(name, functools.partial(_count, name, kind, 7 if tiny else count, device=device), once=True)
        for kind in COUNTED_KINDS
        for count in SIZES
        for name in [f"steps of {kind.format(count)}"]
    ]
