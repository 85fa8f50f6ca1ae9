"""Figures of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfpg.files import written_beside


def learning_curve(
    history: Mapping[str, Sequence[float]],
    path: str | os.PathLike,
    title: str = "",
) -> Path:
    """Draws return and entropy against environment steps, and returns the path of the picture.

    Args:
        history: ``history.history`` of a fit: lists ``env_steps``, ``episode_return`` and, if
            there, ``entropy``; a shorter one belongs to the last iterations.
        path: Of the picture, for example a ``.png``.
        title: Above it.

    Raises:
        FileNotFoundError, PermissionError: The folder is missing or not writable.
        ImportError: Matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> history = {"env_steps": [100, 200], "episode_return": [20.0, 35.0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learning_curve(history, f"{folder}/curve.png").name
        'curve.png'
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("Figures need Matplotlib: pip install matplotlib") from error

    panels = [("episode_return", "Episode return")]
    if "entropy" in history:
        panels.append(("entropy", "Entropy (nats)"))
    all_steps = np.asarray(history["env_steps"], float)
    # A wide mean over a short run shows the window rather than the run.
    window = len(all_steps) // 20
    figure = Figure(figsize=(7, 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, label) in zip(axes, panels, strict=True):
        values = np.asarray(history.get(name, []), float)
        # A mean return is not known from the first iteration on.
        steps = all_steps[len(all_steps) - len(values) :]
        if window < 2:
            axis.plot(steps, values, color="tab:blue", linewidth=1.5)
        else:
            axis.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=1, label="iteration")
            smooth = _running_mean(values, window)
            axis.plot(steps, smooth, color="tab:blue", linewidth=2, label=f"mean of {window}")
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    if window >= 2:
        axes[0].legend(frameon=False, loc="best")
    axes[0].set_title(title)
    axes[-1].set_xlabel("Environment steps")
    axes[-1].xaxis.set_major_locator(MaxNLocator(6))
    axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    path = Path(path)
    with written_beside(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
