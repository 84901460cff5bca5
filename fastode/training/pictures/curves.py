"""The course of training: likelihood and cost over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .style import DATA, INK, MUTED, SAMPLES, new_figure, save


def draw_training(name: str, metrics: list[dict[str, Any]], gaussian: float, path: Path) -> Path:
    """Training and validation loss with the Gaussian's as a yardstick, and evaluations of the field per step.

    Args:
        name: of the data.
        metrics: the lines of ``metrics.jsonl``.
        gaussian: negative log-likelihood of a full-covariance Gaussian on the test set, in nats.
        path: of the PNG.
    """
    figure = new_figure(11, 4.2, f"{name}: training")
    steps = [m for m in metrics if "loss" in m]
    looks = [m for m in metrics if "val_nll" in m]
    left, right = figure.subplots(1, 2)
    x = [m["step"] for m in steps]
    left.plot(x, [m["loss"] for m in steps], color=DATA, lw=0.7, alpha=0.45, label="training batch")
    left.plot(
        [m["step"] for m in looks],
        [m["val_nll"] for m in looks],
        "o-",
        color=SAMPLES,
        lw=1.6,
        ms=4,
        label="validation",
    )
    left.axhline(gaussian, color=INK, lw=1, ls="--", label="full-covariance Gaussian")
    left.set(title="negative log-likelihood", xlabel="step", ylabel="nats per row")
    losses = np.array([m["loss"] for m in steps] + [m["val_nll"] for m in looks] + [gaussian])
    low, high = np.quantile(losses, [0.0, 0.995])
    high = max(float(high), gaussian)
    margin = 0.06 * max(float(high - low), 1e-3)
    left.set_ylim(float(low) - margin, high + margin)
    left.legend()
    right.plot(x, [m["nfe_forward"] for m in steps], color=DATA, lw=1.2, label="forward solve")
    right.plot(x, [m["nfe_backward"] for m in steps], color=SAMPLES, lw=1.2, label="gradient")
    seconds = float(np.median([m["seconds"] for m in steps])) if steps else 0.0
    right.set(
        title=f"field evaluations per step (median step: {1000 * seconds:.0f} ms)",
        xlabel="step",
        ylabel="evaluations",
    )
    right.set_ylim(bottom=0)
    right.legend()
    for axes in (left, right):
        axes.grid(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(color=MUTED)
    return save(figure, path)
