"""Constants of a field program: tensors that do not depend on the row, found anew for every solve.

A constant is a parameter or another tensor of the field, an argument that is the same for all rows, or what the field
computes from those alone. Torch computes it, with autograd on, so that gradients flow and an optimiser's step is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .places import Place


@dataclass(frozen=True)
class Node:
    """One of the tensors on the way to the constants, by its number."""

    slot: int


@dataclass(frozen=True)
class _Step:
    """``function(*args, **kwargs)``, where nodes stand for tensors; the results go to ``slots``."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slots: tuple[int, ...]
    several: bool


class Constants:
    """The constants of a program, by number.

    Attributes:
        names: what each one is, for people.
        shapes: of each one; a vector is stored in any shape, row by row.
        direct: each one as ``container[key]``, if none of them is an argument or computed.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self._places: list[tuple[int, Place]] = []
        self._arguments: list[tuple[int, int]] = []
        self._steps: list[_Step] = []
        #: of each node, while the field is traced
        self._examples: dict[int, Tensor] = {}
        self._labels: list[str] = []
        self._outputs: list[int] = []
        self._computed: dict[Any, int] = {}
        self.direct: list[tuple[Any, Any]] | None = None

    def __len__(self) -> int:
        return len(self._outputs)

    def values(self, args: Sequence[Any] = ()) -> list[Tensor]:
        """The constants as they are now.

        Args:
            args: all arguments of the field, those for each row too (which are not looked at).
        """
        if self.direct is not None:
            return [container[key] for container, key in self.direct]
        found: list[Any] = [None] * len(self._labels)
        for slot, place in self._places:
            found[slot] = place.container[place.key]
        for slot, number in self._arguments:
            found[slot] = args[number]
        for step in self._steps:
            result = step.function(*_filled(step.args, found), **step.kwargs)
            if step.several:
                for slot, value in zip(step.slots, result, strict=True):
                    found[slot] = value
            else:
                found[step.slots[0]] = result
        return [found[slot] for slot in self._outputs]

    def leaves(self) -> list[Tensor]:
        """The tensors of the field that the constants are, or are computed from; no arguments."""
        return [place.get() for _, place in self._places]

    def compute(self, function: Callable[..., Tensor], inputs: Sequence[int]) -> int:
        """The number of the constant ``function(*inputs)``, of constants by number."""
        key = (function, *inputs)
        known = self._computed.get(key)
        if known is None:
            arguments = tuple(Node(self._outputs[i]) for i in inputs)
            label = f"{getattr(function, '__name__', function)}({', '.join(self.names[i] for i in inputs)})"
            with torch.no_grad():
                example = function(*[torch.zeros(self.shapes[i]) for i in inputs])
            (node,) = self._step(function, arguments, {}, [example], False, label)
            known = self._computed[key] = self._give(node)
            self._examples.clear()
        return known

    def leaf(self, place: Place) -> Node:
        """A tensor of the field."""
        node = self._node(place.get(), place.name)
        self._places.append((node.slot, place))
        return node

    def argument(self, number: int, example: Tensor) -> Node:
        """An argument of the field that is the same for all rows."""
        node = self._node(example, f"argument {number}")
        self._arguments.append((node.slot, number))
        return node

    def record(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Node]:
        """Compute something from nodes (in ``args``, or in lists there); one node for each result."""
        with torch.no_grad():
            result = function(*_filled(args, self._examples), **kwargs)
        several = not isinstance(result, Tensor)
        name = str(getattr(function, "__name__", function)).split(".")[0]
        label = f"{name}({', '.join(self._labels[n.slot] for n in _nodes(args))})"
        return self._step(function, args, kwargs, list(result) if several else [result], several, label)

    def example(self, node: Node) -> Tensor:
        """The value of a node while the field is traced."""
        return self._examples[node.slot]

    def finish(self, used: Sequence[Node], dtype: torch.dtype) -> None:
        """Make these the constants 0, 1, ..., all of one dtype, and forget what none of them needs."""
        for node in used:
            if self._examples[node.slot].dtype != dtype:
                (node,) = self.record(_to_dtype, (node, dtype), {})
            self._give(node)
        needed = set(self._outputs)
        for step in reversed(self._steps):
            if needed.intersection(step.slots):
                needed.update(node.slot for node in _nodes(step.args))
        self._steps = [s for s in self._steps if needed.intersection(s.slots)]
        self._places = [(slot, place) for slot, place in self._places if slot in needed]
        self._arguments = [(slot, number) for slot, number in self._arguments if slot in needed]
        self._examples.clear()
        if not self._steps and not self._arguments:
            by_slot = dict(self._places)
            self.direct = [(by_slot[slot].container, by_slot[slot].key) for slot in self._outputs]

    def places(self) -> list[Place]:
        """Where the leaves are."""
        return [place for _, place in self._places]

    def _node(self, example: Tensor, label: str) -> Node:
        node = Node(len(self._labels))
        self._labels.append(label)
        self._examples[node.slot] = example
        return node

    def _step(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        results: list[Tensor],
        several: bool,
        label: str,
    ) -> list[Node]:
        self.direct = None
        nodes = [self._node(r, label) for r in results]
        self._steps.append(_Step(function, args, kwargs, tuple(n.slot for n in nodes), several))
        return nodes

    def _give(self, node: Node) -> int:
        self._outputs.append(node.slot)
        self.names.append(self._labels[node.slot])
        self.shapes.append(tuple(self._examples[node.slot].shape))
        return len(self._outputs) - 1


def _to_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


def _filled(args: Any, found: Sequence[Any] | dict[int, Any]) -> Any:
    """``args`` with tensors for nodes."""
    if isinstance(args, Node):
        return found[args.slot]
    if isinstance(args, list | tuple):
        return type(args)([_filled(a, found) for a in args])
    return args


def _nodes(args: Any) -> list[Node]:
    if isinstance(args, Node):
        return [args]
    if isinstance(args, list | tuple):
        return [n for a in args for n in _nodes(a)]
    return []
