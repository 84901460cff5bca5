"""fastode's sides with a compiled field: native solves, which count for themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

import fastode

from .contest import Side
from .problems import Counted

#: times the peer's tolerance, where ours is chosen for an error that may be compared. diffrax steps onto the last time
#: and torchdiffeq, and fastode with it, beyond it, from where it interpolates: at one tolerance diffrax errs less
TIGHTER = (1.0, 0.3, 0.1, 0.03, 0.01)
#: times the peer's tolerance, where torchdiffeq's gradient in float32 errs by rounding alone. Beside diffrax ours is
#: held to this error if it is the larger one: no tolerance brings it below
ROUNDING = 0.01


def natively(side: Side, solved: nn.Module) -> Side:
    """A side that solves ``solved``, a compiled field or a module that compiles its own, whatever field it is given."""
    return Side(side.label, lambda field: _counted(field, lambda: side.run(solved)), side.result, "compiled")


def tolerances_beside(peer: str, tolerance: float) -> list[float]:
    """The peer's own, and beside diffrax tighter ones too."""
    return [tolerance * factor for factor in (TIGHTER if peer == "diffrax" else TIGHTER[:1])]


def odeint_sides(
    make: Callable[..., Side], field: nn.Module, y0: Tensor, t: Tensor, tolerances: Sequence[float]
) -> tuple[Side, ...]:
    """``make``, such as ``problems.forward_side``, of the compiled field: one side for each tolerance."""
    compiled = fastode.compile(field)
    return tuple(
        natively(make(f"odeint at {tol:.0e}", fastode.odeint, y0, t, rtol=tol, atol=tol), compiled)
        for tol in tolerances
    )


def _counted(field: nn.Module, call: Callable[[], Any]) -> Any:
    """Make the call, and tell a counting field what the engine counted.

    Raises:
        RuntimeError: a counted solve was not native.
    """
    if not isinstance(field, Counted):
        return call()
    with fastode.stats() as log:
        result = call()
    for entry in log:
        if entry.engine != "compiled":
            raise RuntimeError(f"solved by the engine {entry.engine!r}, not natively: {entry.reason}")
        field.evaluations[entry.direction == "backward"] += entry.n_func
        if entry.direction == "forward":
            field.steps += entry.n_steps
    return result
