"""Rooted trees, and the order conditions that they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

#: a tree is the sorted tuple of the trees that hang from its root
Tree = tuple[Any, ...]


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees of ``order`` vertices."""
    return tuple(sorted(set(_forests(order - 1))))


def _forests(vertices: int) -> Iterator[Tree]:
    if vertices == 0:
        yield ()
    for size in range(1, vertices + 1):
        for first in trees(size):
            for rest in _forests(vertices - size):
                yield tuple(sorted((first, *rest)))


@cache
def vertices(tree: Tree) -> int:
    """Number of vertices."""
    return 1 + sum(vertices(branch) for branch in tree)


@cache
def density(tree: Tree) -> int:
    """The product of the sizes of all subtrees: the exact solution's weight is its inverse."""
    return vertices(tree) * math.prod(density(branch) for branch in tree)


class Tableau:
    """Weights of elementary differentials of a Runge-Kutta method with square matrix ``a``."""

    def __init__(self, a: Sequence[Sequence[Any]]) -> None:
        self.a = a
        self.known: dict[Tree, list[Any]] = {}

    def stages(self, tree: Tree) -> list[Any]:
        """Weight of ``tree`` in the slope of every stage."""
        if tree not in self.known:
            weights = [Fraction(1)] * len(self.a)
            for branch in tree:
                inner = self.stages(branch)
                sums = [sum(x * w for x, w in zip(row, inner, strict=False) if x) for row in self.a]
                weights = [w * s for w, s in zip(weights, sums, strict=True)]
            self.known[tree] = weights
        return self.known[tree]

    def defect(self, b: Sequence[Any], order: int, x: Any = 1) -> Any:
        """How far ``y + dt sum_i b_i k_i`` is from ``y(t + x dt)`` in its terms of ``dt^order``."""
        found = [
            abs(sum(w * p for w, p in zip(b, self.stages(tree), strict=True)) - x**order / Fraction(density(tree)))
            for tree in trees(order)
        ]
        return max(found)

    def order(self, b: Sequence[Any], tolerance: Any, x: Any = 1, limit: int = 9) -> int:
        """The order to which ``b`` gives ``y(t + x dt)``."""
        return next((q - 1 for q in range(1, limit + 1) if self.defect(b, q, x) > tolerance), limit)
