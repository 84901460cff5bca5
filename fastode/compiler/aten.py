"""Operators of torch in terms of field programs, by name.

Four kinds: data movement (done on the codes), elementwise operators that programs have, products and sums (in
:mod:`.products`), and the rest, written out in :mod:`.decompositions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

#: data movement: the arguments that hold data; the others (indices, sizes) are used as they are
MOVES: dict[str, tuple[int, ...]] = dict.fromkeys(
    (
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "as_strided",
        "cat",
        "clone",
        "constant_pad_nd",
        "detach",
        "diag_embed",
        "diagonal",
        "embedding",
        "expand",
        "flip",
        "gather",
        "index",
        "index_select",
        "narrow",
        "permute",
        "pixel_shuffle",
        "reflection_pad1d",
        "reflection_pad2d",
        "repeat",
        "replication_pad1d",
        "replication_pad2d",
        "roll",
        "rot90",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "t",
        "take",
        "transpose",
        "tril",
        "triu",
        "unbind",
        "unfold",
        "unsafe_split",
        "unsqueeze",
        "view",
    ),
    (0,),
) | {
    "diagonal_scatter": (0, 1),
    "index_copy": (0, 3),
    "index_put": (0, 2),
    "scatter": (0, 3),
    "select_scatter": (0, 1),
    "slice_scatter": (0, 1),
    "select_backward": (0,),
    "slice_backward": (0,),
}

#: results do not depend on the values of the tensor that gives the shape
FACTORIES = frozenset(
    (
        "empty_like",
        "full_like",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "zeros_like",
    )
)

#: checks, without a result
IGNORED = frozenset(("_assert_async", "_has_same_storage_numel", "_linalg_check_errors", "is_same_size"))

#: named so that the reason for a refusal can be told
MIXING = {
    "native_batch_norm": "in training mode takes the mean over the rows: call `.eval()` on the module",
    "_native_batch_norm_legit": "in training mode takes the mean over the rows: call `.eval()` on the module",
}

#: (name in programs, inputs, numbers)
Elementwise = tuple[str, tuple[Any, ...], tuple[float, ...]]


def _same(name: str) -> Callable[..., Elementwise | None]:
    return lambda *inputs: (name, inputs, ())


def _add(a: Any, b: Any, alpha: float = 1) -> Elementwise | None:
    return ("add", (a, b), ()) if alpha == 1 else None


def _sub(a: Any, b: Any, alpha: float = 1) -> Elementwise | None:
    return ("sub", (a, b), ()) if alpha == 1 else None


def _rsub(a: Any, b: Any, alpha: float = 1) -> Elementwise | None:
    return ("sub", (b, a), ()) if alpha == 1 else None


def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Elementwise | None:
    return ("div", (a, b), ()) if rounding_mode is None else None


def _pow(a: Any, b: Any) -> Elementwise | None:
    return None if isinstance(b, int | float) else ("pow", (a, b), ())


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Elementwise | None:
    return ("softplus", (x,), (float(threshold),)) if beta == 1 else None


#: torch's name -> the program's operator, or ``None`` where :mod:`.decompositions` has to do it
ELEMENTWISE: dict[str, Callable[..., Elementwise | None]] = {
    "abs": _same("abs"),
    "add": _add,
    "atan": lambda x: ("atan2", (x, 1.0), ()),
    "atan2": _same("atan2"),
    "bitwise_and": _same("mul"),
    "bitwise_not": lambda x: ("eq", (x, 0.0), ()),
    "bitwise_or": _same("maximum"),
    "bitwise_xor": _same("ne"),
    "cos": _same("cos"),
    "div": _div,
    "eq": _same("eq"),
    "erf": _same("erf"),
    "exp": _same("exp"),
    "expm1": _same("expm1"),
    "floor": _same("floor"),
    "ge": _same("ge"),
    "gt": _same("gt"),
    "le": _same("le"),
    "leaky_relu": lambda x, slope=0.01: ("leaky_relu", (x,), (float(slope),)),
    "log": _same("log"),
    "log1p": _same("log1p"),
    "logical_not": lambda x: ("eq", (x, 0.0), ()),
    "lt": _same("lt"),
    "masked_fill": lambda x, mask, value: ("where", (mask, value, x), ()),
    "maximum": _same("maximum"),
    "minimum": _same("minimum"),
    "mul": _same("mul"),
    "ne": _same("ne"),
    "neg": _same("neg"),
    "pow": _pow,
    "reciprocal": lambda x: ("div", (1.0, x), ()),
    "relu": _same("relu"),
    "round": lambda x, decimals=0: ("round", (x,), ()) if decimals == 0 else None,
    "rsub": _rsub,
    "sgn": _same("sign"),
    "sigmoid": _same("sigmoid"),
    "sigmoid_backward": _same("times_sigmoid_slope"),
    "sign": _same("sign"),
    "sin": _same("sin"),
    "softplus": _softplus,
    "sqrt": _same("sqrt"),
    "sub": _sub,
    "tanh": _same("tanh"),
    "tanh_backward": _same("times_tanh_slope"),
    "where": _same("where"),
}
