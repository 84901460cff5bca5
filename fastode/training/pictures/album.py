"""All pictures of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...nn import CNF
from ..data import Data
from .animation import draw_animation
from .curves import draw_training
from .samples import draw_density, draw_samples
from .scene import make_scene
from .staircase import draw_staircase
from .strip import draw_strip
from .style import look


def draw_album(
    flow: CNF, data: Data, metrics: list[dict[str, Any]], gaussian: float, folder: Path, animate: bool = True
) -> Iterator[Path]:
    """Draw one picture after the other and yield its path.

    Args:
        flow: a trained flow.
        data: what it was trained on.
        metrics: the lines of ``metrics.jsonl``.
        gaussian: the yardstick's negative log-likelihood.
        folder: where the pictures go; must exist.
        animate: draw the animation too.
    """
    scene = make_scene(flow, data)
    pictures: list[Callable[[], Path]] = [lambda: draw_samples(scene, folder / "samples.png")]
    if scene.planar:
        pictures.append(lambda: draw_density(scene, folder / "density.png"))
    pictures.append(lambda: draw_strip(scene, folder / "flow.png"))
    pictures.append(lambda: draw_staircase(scene, folder / "staircase.png"))
    if metrics:
        pictures.append(lambda: draw_training(data.name, metrics, gaussian, folder / "training.png"))
    if animate:
        pictures.append(lambda: draw_animation(scene, folder / "flow.gif"))
    for draw in pictures:
        with look():
            yield draw()
