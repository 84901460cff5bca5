"""The stiffest of the batches per sample, compiled: steps of its own for each sample, in native code."""

from __future__ import annotations

import functools

from ..batches import batch
from ..contest import Case, Contest, Target
from ..libraries import PEERS, absent, compiled_side
from ..problems import joined
from .per_sample import FEW

KIND, COUNTS = "Van der Pol {}", (4096,)
#: beside those, where there is more to do at once
LARGE = (65536,)
#: the ratio asked for
RATIOS = {"torchode": 150.0, "diffrax": 20.0}


def _contest(count: int, peer: str, *, device: str) -> Contest:
    problem = batch(KIND, count, device)
    return Contest(
        problem.field,
        PEERS[peer](problem),
        (compiled_side(problem),),
        lambda: joined(problem.reference),
        forward="equal" if peer == "torchode" else "any",
        samples=count,
        device=device,
    )


def cases(tiny: bool, device: str = "cpu") -> list[Case]:
    """Beside both peers whose samples have steps of their own."""
    return [
        Case(
            f"compiled per sample {KIND.format(count)}, against {peer}",
            functools.partial(_contest, FEW if tiny else count, peer, device=device),
            Target("ratio", ratio) if device == "cpu" else None,
            share=0.5,
            missing=absent(peer, device),
        )
        for count in (COUNTS if device == "cpu" else COUNTS + LARGE)
        for peer, ratio in RATIOS.items()
    ]
