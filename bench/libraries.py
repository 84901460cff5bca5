"""How each library solves a batch of :mod:`bench.batches`, in its fastest way to the states at the end."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastode

from .batches import Batch
from .contest import Side
from .problems import Counted, forward_side, joined

#: rtol and atol of every library: dopri5 with an integral controller errs alike in all of them, within
#: ``contest.ERROR_FACTOR`` in the mean and in the worst sample, so that no tolerance has to be adapted
TOLERANCE = 1e-5


def absent(peer: str, device: str) -> str:
    """Why a library cannot be measured on this device, or an empty string."""
    if importlib.util.find_spec(peer) is None:
        return f"{peer} is not installed (it is in the extra `bench`)"
    if peer == "diffrax" and device == "cuda":
        try:
            jax_device(device)
        except RuntimeError:
            return "diffrax: jax sees no CUDA device (its GPU build is `jax[cuda12]` or `jax[cuda13]`)"
    return ""


def fastode_side(batch: Batch) -> Side:
    """Steps of its own for every sample."""

    @torch.no_grad()
    def run(field: nn.Module) -> Tensor:
        solution = solve(batch, field).raise_for_status()
        _note(field, solution.stats.n_steps)
        if type(field) is Counted and batch.y0.is_cuda:
            # what was queued beyond the end, before the host knew of it, is in the time but not in the steps
            field.evaluations[0] = int(solution.stats.n_func.max())
        return solution.y

    return Side("solve", run, joined)


def compiled_side(batch: Batch) -> Side:
    """The same of the compiled field."""
    compiled = fastode.compile(batch.field)

    @torch.no_grad()
    def run(field: nn.Module) -> Tensor:
        solution = solve(batch, compiled).raise_for_status()
        if isinstance(field, Counted):
            _note(field, solution.stats.n_steps)
            field.evaluations[0] = int(solution.stats.n_func.max())
        return solution.y

    return Side("solve", run, joined)


def solve(batch: Batch, field: nn.Module, rows: slice = slice(None)) -> fastode.Solution:
    """Some samples of the batch by fastode."""
    args = (batch.field.parameter[rows],)
    return fastode.solve(field, batch.y0[rows], (0.0, batch.end), args=args, rtol=TOLERANCE, atol=TOLERANCE)


def torchode_side(batch: Batch) -> Side:
    """Steps of its own for every sample; samples that have finished stay in the batch."""
    import torchode

    device, start = batch.y0.device, torch.zeros_like(batch.field.parameter)
    problem = torchode.InitialValueProblem(batch.y0, start, torch.full_like(start, batch.end))

    @torch.no_grad()
    def run(field: nn.Module) -> Tensor:
        term = torchode.ODETerm(field)
        control = torchode.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
        solution = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control).to(device).solve(problem)
        _note(field, solution.stats["n_steps"])
        return solution.ys[:, -1]

    return Side("torchode", run, joined)


def torchdiffeq_side(batch: Batch) -> Side:
    """One step for the whole batch, chosen by the mean over its samples: easy ones are solved more accurately."""
    import torchdiffeq

    times = torch.tensor([0.0, batch.end], device=batch.y0.device)
    side = forward_side("odeint", torchdiffeq.odeint, batch.y0, times, rtol=TOLERANCE, atol=TOLERANCE)
    return Side("odeint", side.run, lambda y: joined(y[-1]))


def diffrax_side(batch: Batch) -> Side:
    """``vmap`` of one solve, compiled before it is timed; jax takes the threads it wants, not torch's number."""
    import jax
    import numpy as np

    device = jax_device(batch.y0.device.type)
    y0, parameter = (jax.device_put(x.numpy(force=True), device) for x in (batch.y0, batch.field.parameter))
    compiled = _diffrax(batch)

    def run(field: nn.Module) -> Any:
        solution = jax.block_until_ready(compiled(y0, parameter))
        if isinstance(field, Counted):
            _note(field, torch.from_numpy(np.array(solution.stats["num_steps"])))
            # one at the start and six a step, as a callback inside the field counts them
            field.evaluations[0] = 1 + 6 * field.steps
        return solution.ys

    return Side("diffrax", run, lambda ys: joined(torch.from_numpy(np.array(ys[:, -1]))))


def _diffrax(batch: Batch) -> Callable[[Any, Any], Any]:
    import diffrax
    import jax

    term, controller = diffrax.ODETerm(batch.field.in_jax()), diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)

    def one(y0: Any, parameter: Any) -> Any:
        return diffrax.diffeqsolve(
            term, diffrax.Dopri5(), 0.0, batch.end, None, y0, parameter,
            stepsize_controller=controller, max_steps=None, throw=False,
        )  # fmt: skip

    return jax.jit(jax.vmap(one))


@functools.cache
def jax_device(device: str) -> Any:
    """jax's first device of a type, ``"cpu"`` or ``"cuda"``."""
    # torch needs what jax would take for itself at its start
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return jax.devices(device)[0]


def _note(field: nn.Module, steps: Tensor) -> None:
    """Tell a counting field how many steps each sample took."""
    if isinstance(field, Counted):
        field.steps, field.steps_by_sample = int(steps.max()), steps


#: libraries beside fastode, by the name of their package
PEERS: dict[str, Callable[[Batch], Side]] = {
    "torchode": torchode_side,
    "diffrax": diffrax_side,
    "torchdiffeq": torchdiffeq_side,
}
