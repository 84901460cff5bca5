"""Particles on their way from base to data, beside the staircase of a residual network, as a GIF."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from .scene import Scene
from .staircase import compute_stairs, plot_paths
from .style import DATA as DATA_COLOUR
from .style import INK, MUTED, PARTICLES, bare, new_figure

N_FRAMES = 48
HOLD = 14
LAYERS = 6


def draw_animation(scene: Scene, path: Path, n_particles: int = 1500, n_frames: int = N_FRAMES) -> Path:
    """Write the animation: about four seconds, then the last picture for a moment longer."""
    from PIL import Image

    figure = new_figure(9.6, 5.2, f"{scene.name}: from noise to data")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    stairs = compute_stairs(scene, 9, (LAYERS,))
    with torch.no_grad():
        points = scene.project(scene.flow.trajectory(scene.base_points(n_particles), n_times=n_frames))
    cloud = left.scatter(points[0, :, 0], points[0, :, 1], s=3.5, color=DATA_COLOUR, alpha=0.4, linewidths=0)
    count = stairs.smooth.shape[1]
    colours = [PARTICLES(i / (count - 1)) for i in range(count)]
    trails = [left.plot([], [], color=c, lw=1.4)[0] for c in colours]
    heads = left.scatter(stairs.smooth[0, :, 0], stairs.smooth[0, :, 1], s=34, c=colours, edgecolors="white", zorder=3)
    bare(left, scene.limits)
    left.set(xlabel=scene.labels[0], ylabel=scene.labels[1])
    lines, ends = plot_paths(right, stairs, LAYERS)
    cursor = right.axvline(0, color=INK, lw=1.2)
    low, high = _padded(stairs.smooth[..., 0], stairs.coarse[LAYERS][..., 0])
    right.set(xlim=(0, 1), ylim=(low, high), xlabel="depth, t", ylabel=f"state h ({scene.labels[0]})")
    right.set_box_aspect(1)
    right.set_title(f"stairs: {LAYERS} residual layers;  thin lines: the ODE")
    right.spines[["top", "right"]].set_visible(False)
    title = left.set_title("t = 0.00")
    if scene.note:
        figure.supxlabel(scene.note, fontsize=9, color=MUTED)
    frames = []
    for i in range(n_frames):
        t = i / (n_frames - 1)
        k = round(t * (len(stairs.smooth) - 1))
        cloud.set_offsets(points[i])
        heads.set_offsets(stairs.smooth[k])
        for j, trail in enumerate(trails):
            trail.set_data(stairs.smooth[: k + 1, j, 0], stairs.smooth[: k + 1, j, 1])
        cursor.set_xdata([t, t])
        # the stairs appear as time reaches them; a clip path is read once, so it is set again
        window = Rectangle((0, low), max(t, 1e-6), high - low, transform=right.transData)
        for line in lines:
            line.set_clip_path(window)
        for end in ends:
            end.set_visible(i == n_frames - 1)
        title.set_text(f"t = {t:.2f}")
        canvas.draw()
        if i == 0:
            # the layout is found once: panels must not jiggle between frames
            figure.set_layout_engine("none")
        pixels = np.asarray(canvas.buffer_rgba())
        frames.append(Image.fromarray(pixels[..., :3]))
    # one palette for all frames, from the last one, which shows every colour: no flicker and a smaller file
    palette = frames[-1].quantize(128)
    colours_used = np.asarray(palette.getpalette(), np.uint8).reshape(-1, 3)
    colours_used[colours_used.min(1) > 246] = 255  # averages of near-whites would make a grey background
    palette.putpalette(colours_used.tobytes())
    reduced = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    durations = [70] * (n_frames - 1) + [70 * HOLD]
    buffer = io.BytesIO()
    reduced[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=reduced[1:],
        duration=durations,
        loop=0,
        optimize=True,
    )
    path.write_bytes(buffer.getvalue())
    return path


def _padded(*values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float]:
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    return low - 0.06 * (high - low), high + 0.06 * (high - low)
