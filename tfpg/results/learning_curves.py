"""Figures of how the return of training runs grows."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpg.core.figures import DARK, LIGHT, Theme, check_figure, save_figure, short_count
from tfpg.results.panels import (
    METRIC_LABELS,
    SEEDS_OF_INTERVALS,
    add_caption,
    count_of,
    episodes_of,
    line_styles,
    new_panels,
    notes,
    sentence,
)
from tfpg.results.run_data import TRAINING, VALIDATION, Group, choose_metric, groups_of
from tfpg.results.statistics import bootstrap_interval, interquartile_mean

_POINTS = 200


def plot(
    what: Any,
    path: str | os.PathLike | None = None,
    *,
    metric: str | None = None,
    dark: bool = False,
) -> Any:
    """Plot learning curves against environment steps, with a panel for each environment.

    Runs that differ only in their seeds are one line: the interquartile mean, with a 95% bootstrap
    interval if there are at least three. With fewer, thin lines show the single runs.

    Args:
        what: What `fit` returned, a run folder, a folder of run folders, or a list of them. To
            name the lines, a dict of these by labels. Histories in a list are one line.
        path: A ``.png``, ``.svg``, ``.pdf`` or ``.jpg`` file to write. None: write none.
        metric: A logged metric. None: the return of the greedy policy, ``"val_episode_return"``,
            or ``"episode_return"`` if a run has no validation.
        dark: Whether the background is dark.

    Returns:
        A `matplotlib.figure.Figure`, which notebooks display.

    Raises:
        FileNotFoundError: There is no such run, it has no metrics yet, or the folder of ``path``
            is missing.
        ValueError: A file of a run is broken, a run has no such metric, or seeds of a line share
            no environment steps.

    Example:
        >>> import tfpg
        >>> agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"))
        >>> history = agent.fit("CartPole-v1", iterations=2, verbose=0)
        >>> figure = tfpg.plot({"REINFORCE": history})
        >>> figure.axes[0].get_xlabel()
        'Environment steps'
    """
    if path is not None:
        check_figure(path)
    groups = groups_of(what)
    chosen = metric or choose_metric(groups)
    theme = DARK if dark else LIGHT
    figure, panels = new_panels(groups, theme)
    styles = line_styles(groups, theme)
    labels = {
        _legend_label(group, groups): _draw(panels[group.env], group, chosen, styles)
        for group in groups
    }
    if len(groups) == len(groups[0].runs) == 1:
        labels = _with_training(panels[groups[0].env], groups[0], chosen, labels, theme)
    for axis in panels.values():
        axis.set_xlabel("Environment steps")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(lambda x, _: short_count(x))
        axis.locator_params(axis="x", nbins=6)
    next(iter(panels.values())).set_ylabel(METRIC_LABELS.get(chosen, chosen))
    if len(labels) > 1:
        _add_legend(figure, labels, theme)
    add_caption(figure, [_what_is_drawn(groups, chosen), *notes(groups, metric)], theme)
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw(axis: Any, group: Group, metric: str, styles: dict[str, dict[str, Any]]) -> Any:
    """Draw the line of a group, and return it."""
    style = styles[group.label]
    if len(group.runs) == 1:
        steps, middle = group.runs[0].curve(metric)
    else:
        steps, values = align(group, metric)
        middle = interquartile_mean(values)
        if len(group.runs) >= SEEDS_OF_INTERVALS:
            low, high = bootstrap_interval(interquartile_mean, values, draws=2000)
            axis.fill_between(steps, low, high, color=style["color"], alpha=0.16, linewidth=0)
        else:
            for run in group.runs:
                axis.plot(*run.curve(metric), **style, alpha=0.5, linewidth=0.8)
    marker = "o" if len(steps) == 1 else None
    return axis.plot(steps, middle, **style, linewidth=2, marker=marker)[0]


def align(group: Group, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate the runs of a group on the range of environment steps that all of them share.

    Returns:
        The steps ``[G]`` and the values ``[G, N]`` of N runs.

    Raises:
        ValueError: They share no steps.
    """
    late = max(group.runs, key=lambda run: run.curve(metric)[0][0])
    short = min(group.runs, key=lambda run: run.curve(metric)[0][-1])
    first, last = late.curve(metric)[0][0], short.curve(metric)[0][-1]
    if first > last:
        raise ValueError(
            f"{short.name} and {late.name} share no environment steps: the {metric} of one ends at "
            f"{last:,.0f} steps, and that of the other begins at {first:,.0f}."
        )
    grid = np.linspace(first, last, _POINTS if first < last else 1)
    return grid, np.stack([np.interp(grid, *run.curve(metric)) for run in group.runs], axis=-1)


def _legend_label(group: Group, groups: Sequence[Group]) -> str:
    """The label of a group, with the number of seeds if it is not that of all groups."""
    if len({len(each.runs) for each in groups}) == 1:
        return group.label
    counts = sorted(len(each.runs) for each in groups if each.label == group.label)
    least = f"{counts[0]} to " if counts[0] < counts[-1] else ""
    return f"{group.label} ({least}{count_of(counts[-1])})"


def _with_training(
    axis: Any, group: Group, metric: str, lines: dict[str, Any], theme: Theme
) -> dict[str, Any]:
    """Add the return in training to the panel of a single run, and return the labeled lines."""
    run = group.runs[0]
    if metric != VALIDATION or TRAINING not in run.curves:
        return lines
    steps, values = run.curves[TRAINING]
    thin = axis.plot(steps, values, color=theme.muted, alpha=0.7, linewidth=0.8, zorder=1)[0]
    return {"greedy policy": next(iter(lines.values())), "in training": thin}


def _add_legend(figure: Any, lines: dict[str, Any], theme: Theme) -> None:
    """Add a legend above the panels, in additional space."""
    texts = [textwrap.fill(label, 60) for label in lines]
    columns = max(1, int(13 * figure.get_figwidth() / (max(map(len, texts)) + 6)))
    rows = sum(text.count("\n") + 1 for text in texts) / columns
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(rows))
    figure.legend(
        lines.values(),
        texts,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
    )


def _what_is_drawn(groups: Sequence[Group], metric: str) -> str:
    """What lines and bands are."""
    counts = sorted(len(group.runs) for group in groups)
    parts = []
    if counts[-1] > 1:
        kind = "interquartile mean" if counts[-1] > 3 else "mean"
        of = count_of(counts[0]) if counts[0] == counts[-1] else "the seeds"
        parts.append(f"lines: {kind} of {of}")
    if counts[-1] >= SEEDS_OF_INTERVALS:
        parts.append("bands: 95% bootstrap interval")
    if any(1 < count < SEEDS_OF_INTERVALS for count in counts):
        parts.append("thin lines: single seeds")
    return sentence([*parts, episodes_of(groups, metric)])
