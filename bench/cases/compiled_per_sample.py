"""The stiffest of the batches per sample, compiled: steps of its own for each sample, in native code."""

from __future__ import annotations

import functools

from ..batches import batch
from ..contest import Case, Contest, Target
from ..libraries import PEERS, absent, compiled_side
from ..problems import joined
from .per_sample import FEW

KIND, COUNT = "Van der Pol {}", 4096
#: the ratio asked for
RATIOS = {"torchode": 150.0, "diffrax": 20.0}


def _contest(count: int, peer: str) -> Contest:
    problem = batch(KIND, count, "cpu")
    return Contest(
        problem.field,
        PEERS[peer](problem),
        (compiled_side(problem),),
        lambda: joined(problem.reference),
        forward="equal" if peer == "torchode" else "any",
        samples=count,
    )


def cases(tiny: bool) -> list[Case]:
    """Beside both peers whose samples have steps of their own."""
    return [
        Case(
            f"compiled per sample {KIND.format(COUNT)}, against {peer}",
            functools.partial(_contest, FEW if tiny else COUNT, peer),
            Target("ratio", ratio),
            share=0.5,
            missing=absent(peer, "cpu"),
        )
        for peer, ratio in RATIOS.items()
    ]
