"""A residual network as the staircase under a smooth flow.

``h[t+1] = h[t] + f(h[t]) / n`` with ``n`` layers is Euler's method on ``dh/dt = f(t, h)``: every layer is a
stair. More layers make finer stairs; the neural ODE is the limit.

Reference: Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018, eq. 1 and 2, figure 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from .scene import Array, Scene
from .style import MUTED, PARTICLES, new_figure, save

N_SMOOTH = 120


@dataclass(frozen=True)
class Stairs:
    """Projected paths of a few particles: ``smooth: [T, B, 2]``, and Euler's ``[n + 1, B, 2]`` by ``n``."""

    smooth: Array
    coarse: dict[int, Array]


def compute_stairs(scene: Scene, n_particles: int, layers: tuple[int, ...]) -> Stairs:
    """The paths of particles that start at evenly spread places along the horizontal axis."""
    pool = scene.base_points(1000, seed=1)
    along = scene.project(scene.flow.trajectory(pool, n_times=2).detach())[0, :, 0]
    ranks = np.linspace(20, len(pool) - 21, n_particles).round().astype(int)
    start = pool[torch.from_numpy(np.argsort(along)[ranks])]
    with torch.no_grad():
        smooth = scene.project(scene.flow.trajectory(start, n_times=N_SMOOTH))
        coarse = {n: scene.project(_euler(scene, start, n)) for n in layers}
    return Stairs(smooth, coarse)


def _euler(scene: Scene, z: Tensor, n: int) -> Tensor:
    """The states ``[n + 1, B, D]`` of ``n`` residual layers, in the coordinates of the data."""
    t0, t1 = scene.flow.t_span
    dt = (t1 - t0) / n
    states = [z]
    for i in range(n):
        t = torch.tensor(t0 + i * dt, dtype=z.dtype)
        states.append(states[-1] + dt * scene.flow.func(t, states[-1]))
    affine = scene.flow.affine
    return torch.stack([s if affine is None else affine(s) for s in states])


def draw_staircase(scene: Scene, path: Path) -> Path:
    """Four layers, sixteen layers, and the ODE, for the same field."""
    figure = new_figure(12, 4.4, f"{scene.name}: a residual network is a staircase, the neural ODE is its limit")
    stairs = compute_stairs(scene, 22, (4, 16))
    panels = figure.subplots(1, 3, sharey=True)
    titles = (
        "4 layers:  $h_{k+1} = h_k + f(t_k, h_k)/4$",
        "16 layers:  $h_{k+1} = h_k + f(t_k, h_k)/16$",
        "ODE:  $dh/dt = f(t, h)$",
    )
    for axes, n, title in zip(panels, (4, 16, None), titles, strict=True):
        plot_paths(axes, stairs, n)
        axes.set_title(title)
        axes.set(xlabel="depth, t", xlim=(0, 1))
        axes.grid(axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"state h ({scene.labels[0]})")
    note = "one line per particle; thin lines under the stairs: the ODE"
    figure.supxlabel(f"{note}; {scene.note}" if scene.note else note, fontsize=9, color=MUTED)
    return save(figure, path)


def plot_paths(axes: Axes, stairs: Stairs, n: int | None) -> tuple[list[Line2D], list[Line2D]]:
    """The first coordinate over time: stairs of ``n`` layers over the smooth path; ``None``: only this.

    Returns:
        The lines of the stairs, and the dots at their ends.
    """
    t = np.linspace(0, 1, N_SMOOTH)
    count = stairs.smooth.shape[1]
    lines: list[Line2D] = []
    ends: list[Line2D] = []
    for i in range(count):
        colour = PARTICLES(i / max(count - 1, 1))
        axes.plot(
            t,
            stairs.smooth[:, i, 0],
            color=colour,
            lw=1.6 if n is None else 0.8,
            alpha=1.0 if n is None else 0.35,
        )
        if n is not None:
            h = stairs.coarse[n][:, i, 0]
            lines += axes.plot(np.linspace(0, 1, n + 1), h, drawstyle="steps-post", color=colour, lw=1.4)
            ends += axes.plot(1, h[-1], ".", color=colour, ms=5, clip_on=False)
    return lines, ends
