"""One look for all pictures: colours, fonts, axes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#22263a"
MUTED = "#7d8497"
DATA = "#2a6f97"
SAMPLES = "#d1603d"
DENSITY = LinearSegmentedColormap.from_list(
    "fastode", ["#ffffff", "#dcedf4", "#8fc9dc", "#3a8fb3", "#1c527d", "#0b1f3a"]
)
#: start position to colour; the ends are dark enough for a white background
PARTICLES = LinearSegmentedColormap.from_list(
    "fastode_particles", ["#0b5d78", "#3aa68f", "#e0a33a", "#d1603d", "#8c2f5b"]
)

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#c9cdd8",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": "#eceef3",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
}


@contextmanager
def look() -> Iterator[None]:
    """Everything drawn inside has fastode's look, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of ``width x height`` inches with a title over all panels."""
    # room at the edges: labels of the figure would touch them otherwise
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, rect=(0.0, 0.015, 1.0, 0.985))
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title, color=INK)
    return figure


def bare(axes: Axes, limits: tuple[float, float, float, float]) -> None:
    """A square plane without ticks."""
    axes.set(xlim=limits[:2], ylim=limits[2:], xticks=[], yticks=[])
    axes.set_box_aspect(1)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG."""
    figure.savefig(path, dpi=150, facecolor="white")
    return path
