"""``fastode plot``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..training import RunFolder
from .common import RunArgument, Threads, load_run_data, set_threads
from .train import draw


def plot(
    run: RunArgument,
    animation: Annotated[bool, typer.Option(help="Draw the animation too.")] = True,
    threads: Threads = None,
) -> int:
    """Draw the pictures of a run again."""
    set_threads(threads)
    folder = RunFolder(run)
    draw(folder, load_run_data(folder.read_config()), animation)
    return 0
