"""The folder of a run: what lies where, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument
from .checkpoint import load_checkpoint, save_checkpoint, write_atomically
from .config import TrainConfig
from .trainer import Trainer


class RunFolder:
    """``config.json``, ``checkpoint.safetensors``, ``metrics.jsonl``, ``result.json`` and the pictures.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.checkpoint_file = path / "checkpoint.safetensors"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"

    def create(self, config: TrainConfig) -> None:
        """Start a new run here.

        Raises:
            InvalidArgument: the folder holds a run already, or cannot be written.
        """
        if self.checkpoint_file.exists() or self.config_file.exists():
            raise InvalidArgument(
                f"{self.path} holds a run already; continue it with `fastode train --resume {self.path}`, or "
                "choose another folder with `--out`"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_json(self.config_file, config.to_json())
        except OSError as error:
            raise InvalidArgument(
                f"{self.path}: the run folder cannot be written ({error.strerror}); choose another `--out`"
            ) from None

    def read_config(self) -> TrainConfig:
        """The settings of the run here.

        Raises:
            InvalidArgument: there is none.
        """
        if not self.config_file.is_file():
            raise InvalidArgument(
                f"{self.path} is not a run folder (it has no config.json); name one that `fastode train` made"
            )
        try:
            return TrainConfig.from_json(json.loads(self.config_file.read_text()))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidArgument(f"{self.config_file} is damaged ({error}); train again") from None

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint."""
        save_checkpoint(self.checkpoint_file, *trainer.state())

    def load(self, trainer: Trainer) -> None:
        """Continue from the checkpoint here. Metrics after it are dropped: those steps are taken again."""
        trainer.load_state(*load_checkpoint(self.checkpoint_file))
        kept = [json.dumps(m) + "\n" for m in self.read_metrics() if m["step"] <= trainer.step]
        write_atomically(self.metrics_file, "".join(kept).encode())

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All metrics; a last line that an interruption cut short is left out."""
        if not self.metrics_file.is_file():
            return []
        lines = self.metrics_file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the final numbers."""
        self._write_json(self.result_file, result)

    @staticmethod
    def _write_json(path: Path, values: dict[str, Any]) -> None:
        write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())
