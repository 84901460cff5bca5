"""``fastode sample``."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from ..errors import InvalidArgument
from ..training import RunFolder
from ..training.checkpoint import write_atomically
from .common import RunArgument, Threads, attempt, console, load_flow, set_threads


def sample(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .npy or .csv.")] = Path("samples.npy"),
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    threads: Threads = None,
) -> int:
    """Draw samples from a trained flow, in the units of its data."""
    set_threads(threads)
    if out.suffix.lower() not in (".npy", ".csv"):
        raise InvalidArgument(
            f"`--out {out}`: files of type {out.suffix or '(none)'} cannot be written; allowed are .npy, .csv"
        )
    if n < 1:
        raise InvalidArgument(f"`-n {n}`: it must be at least 1")
    flow, _, columns = load_flow(RunFolder(run))
    torch.manual_seed(seed)
    values = flow.sample(n).numpy()
    attempt(lambda: write_atomically(out, _encode(values, columns, out.suffix.lower())), str(out))
    console.print(f"{n} samples with {values.shape[1]} columns written to [bold]{out}[/]")
    return 0


def _encode(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], columns: list[str], suffix: str) -> bytes:
    if suffix == ".npy":
        raw = io.BytesIO()
        np.save(raw, values, allow_pickle=False)
        return raw.getvalue()
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(values.tolist())
    return text.getvalue().encode()
