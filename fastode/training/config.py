"""The settings of a training run, and the flow they describe."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgument, did_you_mean
from ..methods import methods
from ..nn import CNF, Affine, MLPField
from ..tableau import ButcherTableau

SCALINGS = ("whiten", "standardise")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run; saved as ``config.json`` in its folder.

    Attributes:
        data: a toy density or a file.
        n_samples: draws from a toy density.
        steps, batch: number of optimizer steps, rows in each.
        lr: the largest learning rate: reached after a tenth of the steps, then a cosine down to zero.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        hidden, layer, activation: of the field; see :class:`fastode.nn.MLPField`.
        trace, noise, gradient, method, compile: see :class:`fastode.nn.CNF`.
        tol, eval_tol: rtol and atol while training, and for likelihoods, samples and pictures.
        scale: ``"whiten"`` or ``"standardise"``; the fixed affine step between flow and data.
        eval_every: steps between two looks at the validation set and two checkpoints.
        seed: of everything random.
    """

    data: str
    n_samples: int = 20_000
    steps: int = 700
    batch: int = 512
    lr: float = 1e-2
    weight_decay: float = 0.0
    clip: float = 10.0
    hidden: tuple[int, ...] = (128, 128)
    layer: str = "concatsquash"
    activation: str = "tanh"
    trace: str = "exact"
    noise: str = "rademacher"
    gradient: str = "discrete"
    method: str = "dopri5"
    compile: bool = True
    tol: float = 1e-3
    eval_tol: float = 1e-5
    scale: str = "whiten"
    eval_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "eval_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("lr", "clip", "tol", "eval_tol"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        _require(self.weight_decay >= 0, "weight-decay", self.weight_decay, "at least 0")
        _require(self.n_samples >= 100, "n-samples", self.n_samples, "at least 100")
        known = sorted(name for name, m in methods().items() if isinstance(m, ButcherTableau) and m.adaptive)
        _require(
            self.method in known,
            "method",
            self.method,
            f"one that controls its step size.{did_you_mean(self.method, known)} Known: {', '.join(known)}",
        )
        _require(self.scale in SCALINGS, "scale", self.scale, f"one of {', '.join(SCALINGS)}")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_json`; unknown keys are refused.

        Raises:
            InvalidArgument: keys of another version.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise InvalidArgument(f"config.json has settings that this version does not know: {', '.join(unknown)}")
        return cls(**{**values, "hidden": tuple(values["hidden"])})

    def learning_rate(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0."""
        warmup = max(self.steps // 10, 1)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return 0.5 * self.lr * (1 + math.cos(math.pi * (step - warmup) / max(self.steps - warmup, 1)))

    def build(self, train: Tensor) -> CNF:
        """A new flow for ``train: [N, D]``; it starts at the Gaussian's likelihood if ``scale="whiten"``."""
        affine = Affine.whitening(train) if self.scale == "whiten" else Affine.standardising(train)
        return self._flow(affine)

    def build_empty(self, dim: int) -> CNF:
        """A flow of the right shape, for a state dict to be loaded into."""
        return self._flow(Affine(torch.zeros(dim), torch.eye(dim)))

    def _flow(self, affine: Affine) -> CNF:
        field = MLPField(affine.shift.shape[0], self.hidden, self.layer, self.activation, zero_init=True)
        return CNF(
            field,
            trace=self.trace,
            noise=self.noise,
            affine=affine,
            method=self.method,
            rtol=self.tol,
            atol=self.tol,
            gradient=self.gradient,
            compile=self.compile,
        )


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise InvalidArgument(f"`--{name.replace('_', '-')} {value}`: it must be {allowed}")
