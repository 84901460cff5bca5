"""Data beside samples, and the learned density beside the data's histogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .scene import Scene
from .style import DATA, DENSITY, MUTED, SAMPLES, bare, new_figure, save


def draw_samples(scene: Scene, path: Path) -> Path:
    """Data on the left, as many samples on the right."""
    figure = new_figure(9, 5.0, f"{scene.name}: data and samples")
    with torch.no_grad():
        samples = scene.flow(scene.base_points(len(scene.data)))[0]
    size = float(np.clip(4000 / len(scene.data), 4, 16))
    panels = ((scene.data, DATA, "data"), (samples, SAMPLES, "samples of the flow"))
    for axes, (points, colour, title) in zip(figure.subplots(1, 2), panels, strict=True):
        plane = scene.project(points)
        axes.scatter(plane[:, 0], plane[:, 1], s=size, color=colour, alpha=0.45, linewidths=0)
        bare(axes, scene.limits)
        axes.set(title=title, xlabel=scene.labels[0], ylabel=scene.labels[1])
    if scene.note:
        figure.supxlabel(scene.note, fontsize=9, color=MUTED)
    return save(figure, path)


def draw_density(scene: Scene, path: Path, n: int = 240) -> Path:
    """A histogram of the data on the left, the learned density on the right, one colour scale."""
    figure = new_figure(10, 5.0, f"{scene.name}: learned density")
    left, right, bottom, top = scene.limits
    plane = scene.project(scene.data)
    counts, _, _ = np.histogram2d(plane[:, 1], plane[:, 0], bins=60, range=[[bottom, top], [left, right]], density=True)
    density = scene.density(n)
    peak = float(np.quantile(density, 0.999))
    panels = figure.subplots(1, 2)
    for axes, values, title in zip(
        panels, (counts, density), ("histogram of the data", "density of the flow"), strict=True
    ):
        image = axes.imshow(
            values, extent=scene.limits, origin="lower", cmap=DENSITY, vmin=0, vmax=peak, aspect="auto",
            interpolation="nearest" if values is counts else "bilinear",
        )  # fmt: skip
        bare(axes, scene.limits)
        axes.set(title=title, xlabel=scene.labels[0], ylabel=scene.labels[1])
    bar = figure.colorbar(image, ax=panels, shrink=0.75, pad=0.02, extend="max")
    bar.set_label("probability per unit area")
    bar.outline.set_visible(False)
    return save(figure, path)
