"""What a node of rows is differentiated with respect to beside its states, and the sums of the cotangents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..field import is_per_row


class Leaves:
    """The inputs of a node beside ``y0``.

    Args:
        inputs: tensors that require grad.
        args: the extra arguments of the field; n_rows: how many rows those have that have an entry for each.
        places: for each argument its place among the inputs, or None; found out by identity if not given.

    Attributes:
        inputs: each once.
        totals: their cotangents.
    """

    def __init__(
        self, inputs: Sequence[Tensor], args: tuple[Any, ...], n_rows: int, places: list[int | None] | None = None
    ) -> None:
        self.inputs = list({id(x): x for x in inputs}.values())
        self.args = args
        self.n_rows = n_rows
        self.places = (
            [next((i for i, x in enumerate(self.inputs) if x is a), None) for a in args] if places is None else places
        )
        self.totals = [torch.zeros_like(x) for x in self.inputs]

    def arguments(self, rows: Tensor) -> tuple[tuple[Any, ...], list[Tensor]]:
        """The arguments for ``rows``, with fresh leaves in the place of inputs, and these leaves."""
        args, fresh = [], []
        for a, place in zip(self.args, self.places, strict=True):
            value = a if place is None else self.inputs[place].detach()
            if is_per_row(value, self.n_rows):
                value = value[rows]
            if place is not None:
                fresh.append(value.detach().requires_grad_())
                value = fresh[-1]
            args.append(value)
        return tuple(args), fresh

    def add(self, found: Sequence[Tensor | None], rows: Tensor) -> None:
        """Add cotangents of the inputs and then of the fresh leaves for ``rows``."""
        n = len(self.inputs)
        hit = [(total, g) for total, g in zip(self.totals, found[:n], strict=True) if g is not None]
        if hit:
            torch._foreach_add_(*map(list, zip(*hit, strict=True)))
        for place, g in zip([i for i in self.places if i is not None], found[n:], strict=True):
            if g is None:
                continue
            if is_per_row(self.inputs[place], self.n_rows):
                self.totals[place].index_add_(0, rows, g)
            else:
                self.totals[place] += g
