"""The text of one Runge-Kutta step.

The stages are a loop of the kernel, not written out: the field's code is there once, which is what the instruction
cache and the compiler can hold.
"""

from __future__ import annotations

from .field import Field, indented
from .slopes import ERROR, Slopes


def stage_time(dtype: str, float32_times: bool) -> list[str]:
    """Lines that make ``time`` that of ``stage``, in the state's type; every operation of ``float32_times`` rounds."""
    between = "t + node * dt"
    if float32_times:
        # the sum, of float32 numbers in float64, is not fused with the product
        between = "(t + (node.to(tl.float32) * dt.to(tl.float32)).to(tl.float64)).to(tl.float32).to(tl.float64)"
    return ["node = tl.load(nodes + stage)", f"time = tl.where(node == 1.0, t1, {between}).to({dtype})"]


def stage_loop(field: Field, slopes: Slopes, first: int, step: str, float32_times: bool = False) -> list[str]:
    """Lines that compute the slopes from number ``first`` on; ``s`` is then the state at the last stage.

    They take the times ``t``, ``dt`` and ``t1`` in float64, the float64 ``nodes``, the state ``y`` and the slopes
    before ``first``.

    Args:
        step: the signed step in the state's type, ``h`` or, if rows have steps of their own, ``{h}``.
        float32_times: times round to float32, as those of a grid of that type.
    """
    state = field.state
    body = [
        *slopes.stage_sum(),
        *state.each("s", f"{{y}} + {step} * {{sum}}", ["y", "sum"], _per_row(step)),
        *stage_time(state.dtype, float32_times),
        *field.emitted.body,
        *slopes.put(field.slope, first),
    ]
    return [
        *slopes.begin(first),
        # the loop carries the state at a stage out
        *state.each("s", "{y}", ["y"]),
        f"for stage in tl.range({first}, stages, disable_licm=True):",
        *indented(body),
    ]


def scaled_error(field: Field, slopes: Slopes, step: str) -> list[str]:
    """Lines that make ``error``, that of the step from ``y`` to ``s`` in units of the tolerance."""
    state = field.state
    scale = "({atol} + {rtol} * tl.maximum(tl.abs({y}), tl.abs({s})))"
    vectors = ["sum", "y", "s", "rtol", "atol"]
    return [
        *slopes.sum(ERROR),
        *state.tolerances(),
        *state.each("error", f"{step} * {{sum}} / {scale}", vectors, _per_row(step)),
    ]


def _per_row(step: str) -> list[str]:
    return ["h"] if "{" in step else []
