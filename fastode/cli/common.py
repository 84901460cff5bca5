"""What several commands share: options, threads, and opening a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from rich.console import Console

from ..errors import InvalidArgument
from ..nn import CNF
from ..training import Data, RunFolder, TrainConfig, load_data, restore_flow
from ..training.checkpoint import load_checkpoint
from ..training.trainer import select

console = Console(soft_wrap=True, highlight=False)

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, as made by `fastode train`.", show_default=False)]
Threads = Annotated[int | None, typer.Option(help="CPU threads for torch and fastode.", show_default="torch's choice")]

T = TypeVar("T")


def set_threads(threads: int | None) -> None:
    """Use ``threads`` CPU threads.

    Raises:
        InvalidArgument: fewer than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise InvalidArgument(f"`--threads {threads}`: it must be at least 1")
    torch.set_num_threads(threads)


def load_flow(folder: RunFolder) -> tuple[CNF, TrainConfig, list[str]]:
    """The best flow of a run, its settings and the names of the columns.

    Raises:
        InvalidArgument: there is no run, or no checkpoint in it.
    """
    config = folder.read_config()
    tensors, values = load_checkpoint(folder.checkpoint_file)
    return restore_flow(config, select(tensors, "best.")), config, values["columns"]


def load_run_data(config: TrainConfig) -> Data:
    """The data a run was trained on, split as it was."""
    return load_data(config.data, config.n_samples, config.seed)


def attempt(action: Callable[[], T], what: str) -> T:
    """``action()``; a file that cannot be written becomes a user error.

    Raises:
        InvalidArgument: instead of ``OSError``.
    """
    try:
        return action()
    except OSError as error:
        raise InvalidArgument(f"{what} cannot be written ({error.strerror or error}); choose another place") from None
