"""The flow as a strip: density and particles at several times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .scene import Scene
from .style import DENSITY, MUTED, PARTICLES, bare, new_figure, save

TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def draw_strip(scene: Scene, path: Path, n: int = 110) -> Path:
    """From base (left) to data (right): densities above, for planar scenes, and particles below."""
    rows = 2 if scene.planar else 1
    figure = new_figure(13, 2.35 * rows + 0.75, f"{scene.name}: the flow from base to data")
    panels = figure.subplots(rows, len(TIMES), squeeze=False)
    with torch.no_grad():
        path_points = scene.project(scene.flow.trajectory(scene.base_points(2500), n_times=len(TIMES)))
    order = _colours(path_points[0])
    for i, t in enumerate(TIMES):
        if scene.planar:
            panels[0, i].imshow(
                scene.density(n, t), extent=scene.limits, origin="lower", cmap=DENSITY, vmin=0, aspect="auto",
                interpolation="bilinear",
            )  # fmt: skip
        particles = panels[-1, i]
        particles.scatter(path_points[i, :, 0], path_points[i, :, 1], s=2.5, c=order, cmap=PARTICLES, linewidths=0)
        end = {0.0: "  (base)", 1.0: "  (data)"}.get(t, "")
        panels[0, i].set_title(f"t = {t:.1f}{end}")
        for axes in panels[:, i]:
            bare(axes, scene.limits)
    for axes, label in zip(panels[:, 0], ("density", "particles")[-rows:], strict=True):
        axes.set_ylabel(label)
    note = "colour of a particle: its angle at the start"
    figure.supxlabel(f"{note}; {scene.note}" if scene.note else note, fontsize=9, color=MUTED)
    return save(figure, path)


def _colours(
    start: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Colour values by the angle around the centre, there and back so that they close."""
    offset = (start - start.mean(0)) / start.std(0)
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.abs(np.arctan2(offset[:, 1], offset[:, 0]))
    return values
