"""Constants and values of a program made of given scalars."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .codes import CONSTANT, NUMBER, Scalars, scalars_of
from .constants import Constants, Node
from .places import Place

#: features of a constant from which a program may pick; some of a larger one are a constant of their own
_SMALL = 64


class Materials:
    """Makes values and constants from scalars, each once."""

    def __init__(self, scalars: Scalars, constants: Constants, device: torch.device) -> None:
        self.scalars = scalars
        self.builder = scalars.builder
        self.constants = constants
        self.device = device
        self._made: dict[tuple[torch.dtype | None, tuple[int, ...], tuple[int, ...]], Node | Tensor] = {}

    def value(self, scalars: Sequence[int], broadcast: bool) -> int:
        """The value with these features; of one feature if all are the same and ``broadcast``."""
        if broadcast and len(set(scalars)) == 1:
            scalars = scalars[:1]
        features = self.scalars.features(scalars)
        far = [i for i, s in enumerate(scalars) if self.scalars.is_constant(s) and self._is_large(features[i][0])]
        if far:
            whole = self.builder.width(features[far[0]][0]) == len(scalars) and list(scalars) == list(
                range(scalars[0], scalars[0] + len(scalars))
            )
            if not whole:
                picked = torch.tensor([scalars[i] for i in far])
                node = self._node(self.constant(picked, None))
                v = self.builder.vector(node.slot, len(far))
                for n, i in enumerate(far):
                    features[i] = (v, n)
        return self.builder.gather(features)

    def matrix(self, codes: Tensor) -> tuple[int, bool]:
        """The constant M of ``M x`` for ``x' codes``, by node number, and whether it is stored as its transpose.

        Args:
            codes: [n, m], of constants.
        """
        stored = self._whole(codes)
        if stored is not None and self.constants.example(stored).shape == codes.shape:
            return stored.slot, True
        stored = self._whole(codes.T)
        if stored is not None and self.constants.example(stored).shape == codes.T.shape:
            return stored.slot, False
        return self._node(self.constant(codes.T, None)).slot, False

    def constant(self, codes: Tensor, dtype: torch.dtype | None) -> Node | Tensor:
        """The tensor with these codes, all of constants and numbers; a tensor if all are numbers.

        Args:
            dtype: of the tensor; ``None`` for that of the first constant in it.
        """
        scalars = scalars_of(codes)
        key = (dtype, tuple(codes.shape), tuple(scalars))
        if key not in self._made:
            self._made[key] = self._make(codes, scalars, dtype)
        return self._made[key]

    def _make(self, codes: Tensor, scalars: list[int], dtype: torch.dtype | None) -> Node | Tensor:
        shape = list(codes.shape)
        if self.scalars.sort(codes) == NUMBER:
            numbers = [self.builder.number(v) or 0.0 for v, _ in self.scalars.features(scalars)]
            return torch.tensor(numbers, dtype=torch.float64).reshape(shape).to(self.device, dtype)
        if (node := self._whole(codes)) is not None:
            return self._shaped(node, shape)
        if codes.dim() == 2 and (node := self._whole(codes.T)) is not None:
            return self.constants.record(torch.t, (self._shaped(node, shape[::-1]),), {})[0]
        first = scalars[0]
        v = self.scalars.value_of[first]
        record = self.constants.record
        if self.scalars.is_constant(first) and scalars == list(range(first, first + len(scalars))):
            begin = self.scalars.feature_of[first]
            if begin + len(scalars) <= self.builder.width(v):
                flat = self._shaped(Node(self.builder.ops[v].data[0]), [-1])
                return self._shaped(record(torch.narrow, (flat, 0, begin, len(scalars)), {})[0], shape)
        return self._shaped(self._picked(scalars, dtype), shape)

    def _picked(self, scalars: list[int], dtype: torch.dtype | None) -> Node:
        """[n]; any scalars of several constants and any numbers."""
        unique = list(dict.fromkeys(scalars))
        vectors = list(dict.fromkeys(self.scalars.value_of[s] for s in unique if self.scalars.is_constant(s)))
        nodes = [Node(self.builder.ops[v].data[0]) for v in vectors]
        if dtype is None:
            dtype = self.constants.example(nodes[0]).dtype
        begin = {}
        parts: list[Node | Tensor] = []
        length = 0
        for v, node in zip(vectors, nodes, strict=True):
            if self.constants.example(node).dtype != dtype:
                node = self.constants.record(_to, (node, dtype), {})[0]
            parts.append(self._shaped(node, [-1]))
            begin[v] = length
            length += self.builder.width(v)
        numbers = [s for s in unique if not self.scalars.is_constant(s)]
        if numbers:
            literals = [self.builder.number(self.scalars.value_of[s]) or 0.0 for s in numbers]
            parts.append(torch.tensor(literals, dtype=dtype, device=self.device))
        place = {s: length + i for i, s in enumerate(numbers)}
        for s in unique:
            if self.scalars.is_constant(s):
                place[s] = begin[self.scalars.value_of[s]] + self.scalars.feature_of[s]
        index = torch.tensor([place[s] for s in scalars], device=self.device)
        joined = parts[0] if len(parts) == 1 else self.constants.record(torch.cat, (parts,), {})[0]
        return self.constants.record(torch.index_select, (joined, 0, index), {})[0]

    def _whole(self, codes: Tensor) -> Node | None:
        """The constant whose elements, in order, these are."""
        if codes.numel() == 0:
            return None
        first = int(codes[(0,) * codes.dim()]) & ((1 << 40) - 1)
        v = self.scalars.value_of[first]
        if not self.scalars.is_constant(first) or self.scalars.feature_of[first] != 0:
            return None
        if self.builder.width(v) != codes.numel() or self.scalars.sort(codes) != CONSTANT:
            return None
        in_order = torch.arange(first, first + codes.numel()).reshape(codes.shape)
        return Node(self.builder.ops[v].data[0]) if torch.equal(codes & ((1 << 40) - 1), in_order) else None

    def _shaped(self, node: Node, shape: list[int]) -> Node:
        if list(self.constants.example(node).shape) == shape:
            return node
        if shape == [-1] and self.constants.example(node).dim() == 1:
            return node
        return self.constants.record(torch.reshape, (node, shape), {})[0]

    def _node(self, made: Node | Tensor) -> Node:
        """Numbers as a node as well."""
        if isinstance(made, Node):
            return made
        return self.constants.leaf(Place([made], 0, f"numbers of shape {list(made.shape)}"))

    def _is_large(self, value: int) -> bool:
        return self.builder.width(value) > _SMALL


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)
