"""What both gradients share: the forward solve inside an autograd node, and how its outputs are handed out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from ..options import Request
from ..tree import Parts, unflatten

EventFn = Callable[..., Any]


def differentiable_inputs(request: Request, params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``params`` and the tensors of ``args`` that require grad, each once."""
    seen: dict[int, Tensor] = {}
    for p in (*params, *[a for a in request.args if isinstance(a, Tensor) and a.requires_grad]):
        seen.setdefault(id(p), p)
    return tuple(seen.values())


@dataclass
class Layout:
    """How the parts of a state lie in the node's single output: ``[T, *shape]`` for a tensor, ``[T, N]`` for more."""

    shapes: list[torch.Size]
    spec: Any
    sizes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = [shape.numel() for shape in self.shapes]

    def join(self, states: Sequence[Parts]) -> Tensor:
        """Stack states along time, and flatten tuples side by side."""
        if self.spec is None:
            return torch.stack([s[0] for s in states])
        return torch.stack([torch.cat([p.reshape(-1) for p in s]) for s in states])

    def split(self, joined: Tensor) -> tuple[Tensor, ...]:
        """The parts ``[*leading, *shape]`` of a joined tensor."""
        if self.spec is None:
            return (joined,)
        parts, at = [], 0
        for shape, size in zip(self.shapes, self.sizes, strict=True):
            parts.append(joined[..., at : at + size].view((*joined.shape[:-1], *shape)))
            at += size
        return tuple(parts)

    def restore(self, joined: Tensor) -> Any:
        """A joined solution in the user's structure."""
        parts = self.split(joined)
        return parts[0] if self.spec is None else unflatten(self.spec, parts)


def layout_of(request: Request) -> Layout:
    """The layout of the request's state."""
    return Layout([p.shape for p in request.y0], request.spec)


def pull_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Vector-Jacobian products; None where an input has no influence.

    The graph is kept: fields may share a part of it between evaluations (a weight computed once outside). The engine is
    called without ``torch.autograd.grad``'s checks, which cost as much as a small field.
    """
    if not all(o.requires_grad for o in outputs):
        kept = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        if not kept:
            return [None] * len(inputs)
        outputs, cotangents = zip(*kept, strict=True)
    found: Sequence[Tensor | None] = _engine_run_backward(
        tuple(outputs), tuple(cotangents), True, False, tuple(inputs), True, accumulate_grad=False
    )
    return found


def filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """``found`` with zeros for None, contiguous: kernels take addresses, and the cotangent of a slice may be a view."""
    return [torch.zeros_like(i) if g is None else g.contiguous() for g, i in zip(found, like, strict=True)]
