"""The controller of rows in C++."""

from __future__ import annotations

from contextlib import suppress

from ...controller import Controller
from ..row_state import RowState

with suppress(ImportError):  # a source tree that was not built; the engine says so
    from ... import _native


def limits_of(controller: Controller) -> list[float]:
    """The numbers of C++'s RowLimits."""
    c = controller
    exponents = [f / c.order for f in c.filter]
    return [float(c.order), c.safety, c.factor_min, c.factor_max, c.dt_min, c.dt_max, *exponents]


def start(state: RowState, controller: Controller, max_steps: int) -> None:
    """:func:`fastode.kernels.reference.control.start`."""
    _native.start_rows(len(state), state.addresses, limits_of(controller), max_steps)


def control(state: RowState, controller: Controller, max_steps: int) -> int:
    """:func:`fastode.kernels.reference.control.control`."""
    return _native.control_rows(len(state), state.addresses, limits_of(controller), max_steps)
