"""Makes kernels of the text of a Triton function, which stays readable: ``inspect.getsource`` finds it."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Sequence
from functools import cache
from typing import Any

from .refusal import NotFused


@cache
def _vocabulary() -> dict[str, Any]:
    """What the text of a kernel may name.

    Raises:
        NotFused: Triton is not installed.
    """
    try:
        import triton.language as tl
    except ImportError as error:
        raise NotFused(f"Triton is not installed ({error})") from error
    from . import control, elementary
    from .settled import settled

    names = (
        "arctangent",
        "divide",
        "exponential",
        "exponential_minus_one",
        "hyperbolic_tangent",
        "logarithm_of_one_plus",
        "logistic",
        "nearest_integer",
        "power_of",
        "reciprocal",
        "soft_plus",
        "square_root",
    )
    functions = {name: getattr(elementary, name) for name in names}
    shared = ("choose_first", "control_rows", "propose_rows", "quartic_weights", "starting_step", "weighted")
    return {"tl": tl, "settled": settled, **functions, **{name: getattr(control, name) for name in shared}}


def kernel(name: str, parameters: Sequence[str], text: str, fixed: Sequence[str], unaligned: Sequence[str]) -> Any:
    """The Triton kernel ``def name(parameters): text``.

    Args:
        text: its body, indented by four spaces.
        fixed: parameters whose values never make another variant of the compiled kernel.
        unaligned: pointers whose alignment never does.

    Raises:
        NotFused: Triton is not installed.
    """
    return _compiled(name, _source(name, parameters, text), tuple(fixed), tuple(unaligned))


def _source(name: str, parameters: Sequence[str], text: str) -> str:
    return f"def {name}(\n    " + ",\n    ".join(parameters) + f",\n):\n{text}"


@cache
def _compiled(name: str, source: str, fixed: tuple[str, ...], unaligned: tuple[str, ...]) -> Any:
    """Programs with the same source share their kernels, and what Triton compiles for them."""
    vocabulary = _vocabulary()
    import triton

    filename = f"<fastode {name} {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    # no time of modification: the entry is never checked against a file
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {**vocabulary, "__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)
    return triton.jit(
        namespace[name],
        do_not_specialize=[*fixed],
        do_not_specialize_on_alignment=[*unaligned],
    )
