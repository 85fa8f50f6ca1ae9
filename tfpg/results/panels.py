"""What figures and comparisons of runs have in common."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from tfpg.core.figures import Theme, new_figure
from tfpg.results.run_data import TRAINING, VALIDATION, Group, without_validation

ENOUGH_SEEDS = 5
SEEDS_OF_INTERVALS = 3  # at least
METRIC_LABELS = {
    VALIDATION: "Return of the greedy policy",
    TRAINING: "Training return",
    "val_episode_length": "Episode length of the greedy policy",
    "episode_length": "Episode length in training",
}


def new_panels(
    groups: Sequence[Group], theme: Theme, height: float = 3.4
) -> tuple[Any, dict[str, Any]]:
    """Return a figure, and its axes by environment, of a height in inches."""
    envs = list(dict.fromkeys(group.env for group in groups))
    columns = 2 if len(envs) == 4 else min(len(envs), 3)
    rows = math.ceil(len(envs) / columns)
    size = max(7, 4.2 * columns), height * rows + 0.6
    figure, axes = new_figure(rows, columns, size, theme)
    for axis in axes[len(envs) :]:
        axis.remove()
    panels = dict(zip(envs, axes, strict=False))
    labels = {group.label for group in groups}
    only = labels.pop() if len(labels) == 1 else ""
    seed = groups[0].runs[0].seed if len(groups) == len(groups[0].runs) == 1 else None
    for env, axis in panels.items():
        title = " in ".join(filter(None, [only, env])) + ("" if seed is None else f", seed {seed}")
        axis.set_title(title, loc="left", size=11, weight="bold", color=theme.text)
    return figure, panels


def line_styles(groups: Sequence[Group], theme: Theme) -> dict[str, dict[str, Any]]:
    """Return the color and the dashes of each label."""
    colors, dashes = theme.lines, ("-", "--", ":", "-.")
    looks = ({"color": color, "linestyle": dash} for dash in dashes for color in colors)
    return dict(zip(dict.fromkeys(group.label for group in groups), cycle(looks), strict=False))


def add_caption(figure: Any, sentences: Sequence[str], theme: Theme) -> None:
    """Add a line below the panels for each sentence."""
    width = int(16 * figure.get_figwidth())
    text = "\n".join(textwrap.fill(sentence, width) for sentence in sentences if sentence)
    figure.supxlabel(text, x=0.01, ha="left", size=8, color=theme.muted, linespacing=1.4)


def notes(groups: Sequence[Group], metric: str | None) -> list[str]:
    """Return what a reader should know about runs before comparing them.

    Args:
        groups: The groups.
        metric: The metric that the user chose. None: the default.
    """
    found = []
    fewest = min(len(group.runs) for group in groups)
    if fewest < ENOUGH_SEEDS:
        what = (
            "differences may be chance"
            if len(groups) > 1
            else "other seeds may give different results"
        )
        found.append(f"{count_of(fewest)}: {what}.")
    if metric is None and (missing := len(without_validation(groups))):
        count = sum(len(group.runs) for group in groups)
        found.append(
            f"No validation in {missing} of {count_of(count, 'run')}: these are returns in "
            "training, which algorithms measure differently."
        )
    return found


def episodes_of(groups: Sequence[Group], metric: str) -> str:
    """Return how many episodes a value is the mean of, if that is known."""
    counts = {run.episodes for group in groups for run in group.runs}
    if not metric.startswith("val_") or len(counts) > 1 or None in counts:
        return ""
    return f"{counts.pop()} greedy episodes per evaluation"


def sentence(parts: Sequence[str]) -> str:
    """Return a sentence of the parts that are not empty.

    Example:
        >>> sentence(["lines: means", "", "bands: intervals"])
        'Lines: means; bands: intervals.'
    """
    text = "; ".join(filter(None, parts))
    return f"{text[0].upper()}{text[1:]}." if text else ""


def count_of(count: int, noun: str = "seed") -> str:
    """Return a number of things.

    Example:
        >>> count_of(1), count_of(5, "run")
        ('1 seed', '5 runs')
    """
    return f"{count} {noun}{'s' * (count != 1)}"
