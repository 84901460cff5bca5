"""Batches whose samples need very different steps, solved with steps of its own for each sample."""

from __future__ import annotations

import functools

from ..batches import KINDS, SIZES, batch
from ..contest import Case, Contest, Target
from ..libraries import PEERS, absent, fastode_side
from ..problems import joined

#: samples of the tiny cases; with fewer, torchdiffeq's shared step is that of the stiffest one and no longer errs alike
FEW = 64


def _contest(kind: str, count: int, peer: str, *, device: str) -> Contest:
    problem = batch(kind, count, device)
    return Contest(
        problem.field,
        PEERS[peer](problem),
        (fastode_side(problem),),
        lambda: joined(problem.reference),
        # torchode takes the same steps, the others do not
        forward="equal" if peer == "torchode" else "any",
        samples=count,
        device=device,
    )


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """Every batch beside every peer."""
    return [
        Case(
            f"per sample {kind.format(count)}, against {peer}",
            functools.partial(_contest, kind, FEW if tiny else count, peer, device=device),
            Target("ratio", 5) if (kind, peer, device) == ("Van der Pol {}", "torchode", "cpu") else None,
            share=0.5,
            missing=absent(peer, device),
        )
        for kind in KINDS
        for count in SIZES
        for peer in PEERS
    ]
