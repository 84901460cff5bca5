"""Shuffled batches whose order can be saved and continued."""

from __future__ import annotations

import torch
from torch import Tensor


class BatchStream:
    """Endless batches of row numbers: every epoch a new permutation, drawn from a generator of its own.

    Args:
        n_rows: rows of the training set.
        batch: rows in a batch; all of them when there are fewer.
        seed: of the order.
    """

    def __init__(self, n_rows: int, batch: int, seed: int) -> None:
        self.batch = min(batch, n_rows)
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(n_rows, generator=self.generator)
        self.cursor = 0

    def next(self) -> Tensor:
        """Row numbers of the next batch; the rest of an epoch that does not fill one is skipped."""
        if self.cursor + self.batch > len(self.order):
            self.order = torch.randperm(len(self.order), generator=self.generator)
            self.cursor = 0
        self.cursor += self.batch
        return self.order[self.cursor - self.batch : self.cursor]
