"""Two-dimensional densities for teaching and testing, as samplers.

The shapes are those of FFJORD's toy experiments (Grathwohl et al., ICLR 2019, section 4.1), drawn from
numpy's generators alone and scaled to fit into about [-4, 4].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rng = np.random.Generator


def moons(n: int, rng: Rng) -> Array:
    """Two interleaved half circles."""
    upper = rng.random(n) < 0.5
    angle = np.pi * rng.random(n)
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    centre = np.array([0.5, 0.25])
    return _blur(2 * (np.stack([x, y], 1) - centre), 0.16, rng)


def circles(n: int, rng: Rng) -> Array:
    """Two concentric circles."""
    return _circles(n, rng, radii=(1.5, 3.0), noise=0.15)


def rings(n: int, rng: Rng) -> Array:
    """Four concentric circles."""
    return _circles(n, rng, radii=(0.8, 1.6, 2.4, 3.2), noise=0.1)


def _circles(n: int, rng: Rng, radii: tuple[float, ...], noise: float) -> Array:
    radius = np.asarray(radii)[rng.integers(len(radii), size=n)]
    angle = 2 * np.pi * rng.random(n)
    return _blur(radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), noise, rng)


def checkerboard(n: int, rng: Rng) -> Array:
    """The black squares of a board of 4 x 4."""
    x = rng.integers(4, size=n)
    y = 2 * rng.integers(2, size=n) + x % 2
    return 2 * (np.stack([x, y], 1) + rng.random((n, 2))) - 4


def pinwheel(n: int, rng: Rng) -> Array:
    """Five arms of a pinwheel."""
    arm = rng.integers(5, size=n)
    radial = 1.0 + 0.3 * rng.standard_normal(n)
    tangential = 0.1 * rng.standard_normal(n)
    angle = 2 * np.pi * arm / 5 + 0.25 * np.exp(radial)
    cos, sin = np.cos(angle), np.sin(angle)
    return 2 * np.stack([radial * cos + tangential * sin, tangential * cos - radial * sin], 1)


def eight_gaussians(n: int, rng: Rng) -> Array:
    """Eight Gaussians on a circle."""
    angle = 2 * np.pi * rng.integers(8, size=n) / 8
    return _blur(3 * np.stack([np.cos(angle), np.sin(angle)], 1), 0.3, rng)


def spirals(n: int, rng: Rng) -> Array:
    """Two spiral arms, one the mirror of the other."""
    angle = np.sqrt(rng.random(n)) * 3 * np.pi
    arm = np.stack([-np.cos(angle), np.sin(angle)], 1) * (angle[:, None] / 3)
    sign = np.where(rng.random((n, 1)) < 0.5, 1.0, -1.0)
    return _blur(sign * arm, 0.1, rng)


def swissroll(n: int, rng: Rng) -> Array:
    """One spiral that opens outwards."""
    angle = 1.5 * np.pi * (1 + 2 * rng.random(n))
    return _blur(angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) / 4, 0.12, rng)


def _blur(points: Array, width: float, rng: Rng) -> Array:
    blurred: Array = points + width * rng.standard_normal(points.shape)
    return blurred


#: the samplers by the names that ``fastode train`` takes
TOYS: dict[str, Callable[[int, Rng], Array]] = {
    "moons": moons,
    "circles": circles,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "8gaussians": eight_gaussians,
    "spirals": spirals,
    "rings": rings,
    "swissroll": swissroll,
}
