"""One training run as an object: step it, look at it, save it, continue it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgument, SolverError
from ..nn import CNF
from ..stats import stats
from .batches import BatchStream
from .config import TrainConfig
from .data import Data

EVAL_BATCH = 4096


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did.

    Attributes:
        step: number of steps taken, this one included.
        loss: mean negative log-likelihood of the batch in nats, in the units of the data.
        nfe_forward, nfe_backward: evaluations of the field in the solve and for its gradient.
        seconds: wall-clock time.
        lr: learning rate.
        engine: what served the solve; see :attr:`fastode.nn.CNF.served_by`.
    """

    step: int
    loss: float
    nfe_forward: int
    nfe_backward: int
    seconds: float
    lr: float
    engine: str


class Trainer:
    """Maximum likelihood with AdamW. All randomness is part of :meth:`state`.

    Args:
        config: of the run.
        data: what ``config.data`` names.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.data = data
        self.flow = config.build(data.train)
        self.optimizer = torch.optim.AdamW(self.flow.parameters(), weight_decay=config.weight_decay)
        self.batches = BatchStream(len(data.train), config.batch, config.seed)
        self.step = 0
        self.best_step = 0
        self.best_val = float("inf")
        self.best = _copy(self.flow.state_dict())

    @property
    def done(self) -> bool:
        """Whether all steps have been taken."""
        return self.step >= self.config.steps

    def train_step(self) -> StepRecord:
        """Take one optimizer step.

        Raises:
            SolverError: the solve failed, or the loss or its gradient is not finite.
        """
        started = time.perf_counter()
        lr = self.config.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        with stats() as log:
            loss = -self.flow.log_prob(self.data.train[self.batches.next()]).mean()
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self.config.clip)
        if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(norm)):
            raise SolverError(
                f"the loss is {loss.item():.3g} and the norm of its gradient {norm.item():.3g}; both must be "
                "finite: start again with a smaller `--lr` or `--tol`"
            )
        self.optimizer.step()
        self.step += 1
        return StepRecord(
            step=self.step,
            loss=loss.item(),
            nfe_forward=sum(s.n_func for s in log if s.direction == "forward"),
            nfe_backward=sum(s.n_func for s in log if s.direction == "backward"),
            seconds=time.perf_counter() - started,
            lr=lr,
            engine=self.flow.served_by[0],
        )

    def validate(self) -> float:
        """The validation set's negative log-likelihood; remembers the best parameters so far."""
        nll = held_out_nll(self.flow, self.data.val, self.config.eval_tol)
        if nll < self.best_val:
            self.best_val, self.best_step, self.best = nll, self.step, _copy(self.flow.state_dict())
        return nll

    def best_flow(self) -> CNF:
        """A flow with the parameters that did best on the validation set, at the evaluation tolerance."""
        return restore_flow(self.config, self.best)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything needed to continue, as tensors and JSON values."""
        tensors = {f"model.{k}": v for k, v in self.flow.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for name, parameter in self.flow.named_parameters():
            tensors |= {f"optimizer.{name}.{k}": v for k, v in self.optimizer.state[parameter].items()}
        tensors["rng.torch"] = torch.get_rng_state()
        tensors["rng.batches"] = self.batches.generator.get_state()
        tensors["batches.order"] = self.batches.order
        values = {
            "config": self.config.to_json(),
            "columns": self.data.columns,
            "step": self.step,
            "cursor": self.batches.cursor,
            "best_step": self.best_step,
            "best_val": self.best_val if math.isfinite(self.best_val) else None,
        }
        return tensors, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from :meth:`state`.

        Raises:
            InvalidArgument: the data are not those of the run that was saved.
        """
        if len(tensors["batches.order"]) != len(self.data.train) or values["columns"] != self.data.columns:
            raise InvalidArgument(
                f"the checkpoint belongs to {len(tensors['batches.order'])} training rows with the columns "
                f"{', '.join(values['columns'])}, but the data now have {len(self.data.train)} rows with "
                f"{', '.join(self.data.columns)}; resume with the same data, or start a new run"
            )
        self.flow.load_state_dict(select(tensors, "model."))
        self.best = select(tensors, "best.")
        for name, parameter in self.flow.named_parameters():
            moments = select(tensors, f"optimizer.{name}.")
            if moments:
                self.optimizer.state[parameter] = dict(moments)
        self.batches.generator.set_state(tensors["rng.batches"])
        self.batches.order = tensors["batches.order"]
        self.batches.cursor = values["cursor"]
        self.step, self.best_step = values["step"], values["best_step"]
        self.best_val = float("inf") if values["best_val"] is None else values["best_val"]
        torch.set_rng_state(tensors["rng.torch"])


def held_out_nll(flow: CNF, x: Tensor, tol: float) -> float:
    """Mean negative log-likelihood of ``x: [N, D]`` in nats, with the exact trace, to tolerance ``tol``."""
    careful = flow.with_tolerance(tol, tol, trace="exact")
    with torch.no_grad():
        parts = [careful.log_prob(part).double() for part in torch.split(x, EVAL_BATCH)]
    return -float(torch.cat(parts).mean())


def restore_flow(config: TrainConfig, state: dict[str, Tensor]) -> CNF:
    """The flow of ``config`` with the parameters ``state``, at the evaluation tolerance."""
    flow = config.build_empty(state["affine.shift"].shape[0])
    flow.load_state_dict(state)
    return flow.with_tolerance(config.eval_tol, config.eval_tol, trace="exact")


def select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items()}
