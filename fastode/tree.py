"""Nested tuples, lists and dicts of tensors as flat tuples of parts, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .errors import InvalidArgument

Parts = tuple[Tensor, ...]
Rebuild = Callable[[Sequence[Tensor]], Any]


def flatten(state: Any, name: str = "y0") -> tuple[Parts, Any]:
    """The tensors of ``state`` in order, and the structure that :func:`unflatten` needs.

    Raises:
        InvalidArgument: ``state`` holds something that is not a tensor, tuple, list or dict.
    """
    leaves: list[Tensor] = []
    spec = _walk(state, leaves, name)
    return tuple(leaves), spec


def _walk(node: Any, leaves: list[Tensor], name: str) -> Any:
    if isinstance(node, Tensor):
        leaves.append(node)
        return None
    if isinstance(node, dict):
        return (type(node), tuple(node), tuple(_walk(v, leaves, name) for v in node.values()))
    if isinstance(node, tuple | list):
        return (type(node), None, tuple(_walk(v, leaves, name) for v in node))
    raise InvalidArgument(
        f"{name} must be either a torch.Tensor or a tuple (nested tuples, lists and dicts of tensors are allowed too), "
        f"but it holds a {type(node).__name__}"
    )


def unflatten(spec: Any, leaves: Sequence[Tensor]) -> Any:
    """The inverse of :func:`flatten`."""
    return _build(spec, iter(leaves))


def _build(spec: Any, leaves: Any) -> Any:
    if spec is None:
        return next(leaves)
    kind, keys, children = spec
    values = [_build(child, leaves) for child in children]
    if keys is not None:
        return dict(zip(keys, values, strict=True))
    return kind(*values) if hasattr(kind, "_fields") else kind(values)
