"""The controller of rows on a GPU."""

from __future__ import annotations

from torch import Tensor

from ...controller import Controller
from ..native.control import limits_of
from ..reference.control import RowControl
from ..row_state import RowState
from . import launch


class CudaControl(RowControl):
    """:class:`~fastode.kernels.reference.control.RowControl` as a kernel, which waits for nothing; the counts do."""

    def __init__(self, state: RowState, controller: Controller, max_steps: int) -> None:
        super().__init__(state, controller, max_steps)
        self._arguments = len(state), state.addresses, limits_of(controller), max_steps

    def start(self) -> None:
        with launch.stream_on(self.state.t.device) as stream:
            launch.native.start_rows(*self._arguments, stream)

    def control(self) -> tuple[int, int, Tensor]:
        backward = self.state.dt < 0
        with launch.stream_on(self.state.t.device) as stream:
            launch.native.control_rows(*self._arguments, stream)
        return self._outcome(backward)
