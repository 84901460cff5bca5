"""What a result cost, how good it is, and whether two may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

import fastode

from .contest import ERROR_FACTOR, NFE_TOLERANCE, Contest, Side
from .problems import Counted


@dataclass(frozen=True)
class Cost:
    """What a result cost, and how good it is.

    Attributes:
        nfe, nfe_backward: evaluations of the field.
        steps: attempted forward steps; those of the slowest sample where each has its own.
        error: of the result, relative; the root mean square over the samples where they are compared one by one.
        worst: the error of the worst sample, then.
        engine: of fastode, that served; several if solves of one call had different ones.
        reason: why it was not the fastest engine, or an empty string.
    """

    nfe: int
    nfe_backward: int
    steps: int
    error: float
    worst: float | None = None
    engine: str = ""
    reason: str = ""


def cost_of(side: Side, field: nn.Module, reference: torch.Tensor, samples: int | None = None) -> Cost:
    """One counted call: evaluations, steps, and the error relative to the reference."""
    counted = Counted(field)
    with fastode.stats() as log:
        result = side.result(side.run(counted))
    served = _served(log)
    if samples is None:
        error = float((result - reference).norm() / reference.norm())
        return Cost(*counted.evaluations, counted.steps, error, None, *served)
    errors = (result - reference).view(samples, -1).norm(dim=1) / reference.view(samples, -1).norm(dim=1)
    root_mean_square = float(errors.square().mean().sqrt())
    return Cost(*counted.evaluations, counted.steps, root_mean_square, float(errors.max()), *served)


def account_of(side: Side, field: nn.Module, reference: torch.Tensor) -> Cost:
    """The cost of a way of fastode as fastode tells it: a field that counts its calls takes a solve off the device.

    Raises:
        RuntimeError: a solve was not served by the engine that has to.
    """
    with fastode.stats() as log:
        result = side.result(side.run(field))
    for entry in log:
        if side.served_by and entry.engine != side.served_by:
            raise RuntimeError(f"solved by the engine {entry.engine!r}, not {side.served_by!r}: {entry.reason}")
    forward = [entry for entry in log if entry.direction == "forward"]
    evaluations = sum(entry.n_func for entry in forward)
    error = float((result - reference).norm() / reference.norm())
    steps = sum(entry.n_steps for entry in forward)
    return Cost(evaluations, log.n_func - evaluations, steps, error, None, *_served(log))


def _served(log: Sequence[fastode.SolveStats]) -> tuple[str, str]:
    """The engines, and why they were not faster ones; each once."""
    engines = dict.fromkeys(entry.engine for entry in log)
    reasons = dict.fromkeys(entry.reason for entry in log if entry.reason)
    return ", ".join(engines), "; ".join(reasons)


def refusal(peer: Cost, ours: Cost, backward: str, allowed: float, forward: str = "equal") -> str:
    """Why the two may not be compared, or an empty string. ``allowed`` is the largest error of the peer's ways."""
    if not ours.error <= ERROR_FACTOR * allowed + 1e-12:
        return f"our error {ours.error:.2g} is more than {ERROR_FACTOR:g} times the peer's {allowed:.2g}"
    if ours.worst is not None and peer.worst is not None and not ours.worst <= ERROR_FACTOR * peer.worst + 1e-12:
        return (
            f"our error in the worst sample {ours.worst:.2g} is more than {ERROR_FACTOR:g} times the peer's "
            f"{peer.worst:.2g}"
        )
    if forward == "equal" and abs(ours.nfe - peer.nfe) > NFE_TOLERANCE * peer.nfe:
        return f"we evaluate the field {ours.nfe} times forward, the peer {peer.nfe}"
    low = 0 if backward != "equal" else (1 - NFE_TOLERANCE) * peer.nfe_backward
    high = float("inf") if backward == "any" else (1 + NFE_TOLERANCE) * peer.nfe_backward
    if not low <= ours.nfe_backward <= high:
        return f"we evaluate the field {ours.nfe_backward} times backward, the peer {peer.nfe_backward}"
    return ""


def cost_in(contest: Contest, side: Side, reference: torch.Tensor) -> Cost:
    """The cost of one of fastode's ways in a contest."""
    if contest.device == "cpu" or contest.samples is not None:
        return cost_of(side, contest.field, reference, contest.samples)
    return account_of(side, contest.field, reference)
