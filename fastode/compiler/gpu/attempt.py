"""The text of one Runge-Kutta step in registers.

The slopes are the variables ``k0``, ``k1``, ... of the state's layout. The stages are a loop of the kernel, not written out:
the field's code is there once, which is what the instruction cache and the compiler can hold. A loop cannot index
variables, so each slope is chosen by the number of its stage.

``coefficients`` points at the tableau in the state's type: the lines of ``a``, S numbers each, then ``b``, the weights of
the error and those of the midpoint; ``nodes`` at the float64 nodes.
"""

from __future__ import annotations

from .field import Field, indented
from .state import combination

#: lines after those of ``a`` in ``coefficients``
WEIGHTS, ERROR, MIDPOINT = range(3)


def weights(name: str, line: str, stages: int, count: int) -> list[str]:
    """Lines that read the first ``count`` coefficients of a line into ``name0``, ``name1``, ..."""
    return [f"{name}{j} = tl.load(coefficients + ({line}) * {stages} + {j})" for j in range(count)]


def stage_loop(
    field: Field, stages: int, first: int, step: str, hoist: bool, float32_times: bool = False
) -> list[str]:
    """Lines that compute the slopes from number ``first`` on; ``s`` is then the state at the last stage.

    They take the times ``t``, ``dt`` and ``t1`` in float64, the state ``y`` and the slopes before ``first``.

    Args:
        step: the signed step in the state's type, ``h`` or, if rows have steps of their own, ``{h}``.
        hoist: the compiler may keep in registers what the stages read again.
        float32_times: times round to float32, as those of a grid of that type.
    """
    state = field.state
    per_row = ["h"] if "{" in step else []
    slopes = range(max(1, stages - 1))
    lines = [line for j in range(first, stages) for line in state.zeros(f"k{j}")]
    # the loop carries the state at a stage out
    lines += state.each("s", "{y}", ["y"])
    vectors = [f"k{j}" for j in slopes]
    body = weights("a", "stage", stages, len(slopes))
    body += state.each("s", f"{{y}} + {step} * ({combination('a', slopes)})", ["y", *vectors], per_row)
    between = "(t + node * dt).to(tl.float32).to(tl.float64)" if float32_times else "t + node * dt"
    body += [
        "node = tl.load(nodes + stage)",
        f"time = tl.where(node == 1.0, t1, {between}).to({state.dtype})",
        *field.emitted.body,
    ]
    for j in range(first, stages):
        body += [
            f"k{j}_{n} = tl.where(stage == {j}, {slope}, k{j}_{n})" for n, slope in enumerate(field.slope)
        ]
    return [*lines, f"for stage in tl.range({first}, stages, disable_licm={not hoist}):", *indented(body)]


def scaled_error(field: Field, stages: int, step: str) -> list[str]:
    """Lines that make ``e``, the error of the step from ``y`` to ``s`` in units of the tolerance."""
    state = field.state
    per_row = ["h"] if "{" in step else []
    vectors = [f"k{j}" for j in range(stages)]
    lines = weights("e", f"{stages + ERROR}", stages, stages)
    lines += state.tolerances()
    ratio = f"{step} * ({combination('e', range(stages))}) / ({{atol}} + {{rtol}} * tl.maximum(tl.abs({{y}}), tl.abs({{s}})))"
    return lines + state.each("error", ratio, ["y", "s", "rtol", "atol", *vectors], per_row)
