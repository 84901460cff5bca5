"""The controller of rows in C++."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from ...controller import Controller
from ..row_state import RowState

with suppress(ImportError):  # a source tree that was not built; the engine says so
    from ... import _native


def limits_of(controller: Controller) -> list[float]:
    """The numbers of C++'s RowLimits."""
    c = controller
    exponents = [f / c.order for f in c.filter]
    return [float(c.order), c.safety, c.factor_min, c.factor_max, c.dt_min, c.dt_max, *exponents]


class RowControl:
    """:class:`fastode.kernels.reference.control.RowControl`."""

    def __init__(self, state: RowState, controller: Controller, max_steps: int) -> None:
        self._state = state  # whose memory C++ holds
        self._outputs = torch.empty_like(state.next_stop)
        self._native = _native.RowControl(
            len(state), state.addresses, limits_of(controller), max_steps, self._outputs.data_ptr()
        )
        self.start = self._native.start

    def control(self) -> tuple[int, int, Tensor]:
        running, accepted, with_output = self._native.control()
        return running, accepted, self._outputs[:with_output]

    def select(self, new: Tensor, old: Tensor) -> Tensor:
        out = torch.empty_like(new)
        size = new.nbytes // len(new) if len(new) else 0
        self._native.select(size, new.data_ptr(), old.data_ptr(), out.data_ptr())
        return out
