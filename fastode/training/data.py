"""What a run is trained on: a toy density or a table, split once by the seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidArgument, did_you_mean
from .tables import SUFFIXES, read_table
from .toys import TOYS


@dataclass(frozen=True)
class Data:
    """A data set in three parts, float32, in its own units.

    Attributes:
        name: short name, for titles and folders.
        columns: names of the D features.
        train, val, test: ``[N, D]``; 80 %, 10 % and 10 % of the rows.
    """

    name: str
    columns: list[str]
    train: Tensor
    val: Tensor
    test: Tensor

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.train.shape[1]


def load_data(source: str, n_samples: int, seed: int) -> Data:
    """Draw a toy density or read a file, and split it.

    Args:
        source: a name of :data:`TOYS`, or the path of a table.
        n_samples: draws from a toy density, all parts together; ignored for files.
        seed: of the draws and of the split.

    Raises:
        InvalidArgument: the source is neither, or the file cannot be trained on.
    """
    rng = np.random.default_rng(seed)
    if source in TOYS:
        values, columns = TOYS[source](n_samples, rng), ["x1", "x2"]
        name = source
    elif Path(source).suffix.lower() in SUFFIXES or Path(source).exists():
        values, columns = read_table(Path(source))
        name = Path(source).stem
    else:
        known = list(TOYS)
        raise InvalidArgument(
            f"{source!r} is neither a built-in density nor a file.{did_you_mean(source, known)} "
            f"Built in: {', '.join(known)}; files: {', '.join(SUFFIXES)}"
        )
    values = values[rng.permutation(len(values))]
    n_held_out = max(len(values) // 10, 2)
    # float32 last: the split must not depend on rounding
    rows = torch.from_numpy(values).float()
    test, val, train = rows[:n_held_out], rows[n_held_out : 2 * n_held_out], rows[2 * n_held_out :]
    return Data(name, columns, train.contiguous(), val.contiguous(), test.contiguous())
