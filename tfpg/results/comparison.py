"""Comparisons of the final scores of training runs."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.figures import DARK, LIGHT, Theme, check_figure, save_figure, short_count
from tfpg.results.panels import (
    ENOUGH_SEEDS,
    METRIC_LABELS,
    SEEDS_OF_INTERVALS,
    add_caption,
    episodes_of,
    line_styles,
    new_panels,
    notes,
    sentence,
)
from tfpg.results.run_data import Group, choose_metric, groups_of
from tfpg.results.statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
)

_WIDTH = 80
LEGEND = "IQM: interquartile mean of the seeds. Intervals are bootstrapped."


@dataclass(frozen=True)
class Score:
    """The final scores of a group of runs.

    Attributes:
        env_steps: Mean number of environment steps of the runs.
        score: Interquartile mean over the seeds.
        low: Lower end of its 95% bootstrap interval. None if there are fewer than three seeds.
        high: Upper end.
        worst: The lowest score of a seed.
        best: The highest score of a seed.
    """

    env: str
    group: str
    seeds: int
    env_steps: float
    score: float
    low: float | None
    high: float | None
    worst: float
    best: float


@dataclass(frozen=True)
class Improvement:
    """The probability that a run of one group scores higher than a run of the other.

    Attributes:
        probability: How often a run of the group beats one of the other. A tie counts half.
        low: Lower end of its 95% bootstrap interval. None if a group has fewer than three seeds.
        high: Upper end.
    """

    env: str
    group: str
    other: str
    probability: float
    low: float | None
    high: float | None


class Table(NamedTuple):
    """A title, the names of columns, and rows."""

    title: str
    names: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True, repr=False)
class Comparison:
    """The result of `tfpg.compare`. Printing it and notebooks show tables.

    Attributes:
        metric: The metric that was compared.
        scores: A `Score` for each group, the best of an environment first.
        improvements: An `Improvement` for each pair of groups in an environment.
        few_seeds: Whether a group has fewer than five seeds.
        notes: What to know before drawing conclusions.
    """

    metric: str
    scores: tuple[Score, ...]
    improvements: tuple[Improvement, ...]
    few_seeds: bool
    notes: tuple[str, ...]

    def tables(self) -> Iterator[Table]:
        """Yield the tables of each environment."""
        for env in dict.fromkeys(each.env for each in self.scores):
            scores = [each for each in self.scores if each.env == env]
            largest = max(abs(x) for each in scores for x in (each.worst, each.best))
            digits = 0 if largest >= 1000 else 1 if largest >= 10 else 3
            form = f"{{:,.{digits}f}}".format
            what = METRIC_LABELS.get(self.metric, self.metric)
            what = f"{what[0].lower()}{what[1:]} in the last tenth of training"
            yield Table(
                ": ".join(filter(None, [env, what])),
                ("", "seeds", "steps", "IQM", "95% interval", "worst", "best"),
                [
                    (
                        *(x.group, str(x.seeds), short_count(x.env_steps), form(x.score)),
                        *(_interval(x, form), form(x.worst), form(x.best)),
                    )
                    for x in scores
                ],
            )
            if pairs := [each for each in self.improvements if each.env == env]:
                yield Table(
                    "Probability of improvement",
                    ("", "probability", "95% interval"),
                    [
                        (
                            f"{x.group} over {x.other}",
                            f"{x.probability:.0%}",
                            _interval(x, _percent),
                        )
                        for x in pairs
                    ],
                )

    def __str__(self) -> str:
        texts = [f"{table.title}\n{_as_text(table)}" for table in self.tables()]
        notes = (textwrap.fill(note, _WIDTH) for note in (LEGEND, *self.notes))
        return "\n\n".join([*texts, "\n".join(notes)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        found = []
        for title, names, rows in self.tables():
            found.append(f"<table><caption>{escape(title)}</caption>")
            for tag, row in [("th", names), *(("td", row) for row in rows)]:
                cells = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
                found.append(f"<tr>{cells}</tr>")
            found.append("</table>")
        return "\n".join([*found, *(f"<p>{escape(note)}</p>" for note in (LEGEND, *self.notes))])


def _percent(x: float) -> str:
    return f"{x:.0%}"


def _interval(x: Score | Improvement, form: Any) -> str:
    return "-" if x.low is None else f"{form(x.low)} to {form(x.high)}"


def _as_text(table: Table) -> str:
    """A table of at most 80 columns. Labels that do not fit have a line of their own."""
    cells = [table.names, *table.rows]
    widths = [max(map(len, column)) for column in list(zip(*cells, strict=True))[1:]]
    room = _WIDTH - sum(widths) - 2 * len(widths)
    first = min(room, max(len(row[0]) for row in cells))
    lines = []
    for label, *values in cells:
        if len(label) > first:
            lines.append(textwrap.fill(label, _WIDTH, subsequent_indent="  "))
            label = ""
        padded = (f"{x:>{width}}" for x, width in zip(values, widths, strict=True))
        lines.append("  ".join([f"{label:{first}}", *padded]))
    return "\n".join(lines)


def compare(
    what: Any,
    path: str | os.PathLike | None = None,
    *,
    metric: str | None = None,
    dark: bool = False,
) -> Comparison:
    """Compare the final scores of training runs, separately for each environment.

    The score of a run is the mean of its metric over the last tenth of its environment steps.
    Runs that differ only in their seeds are a group, whose score is the interquartile mean.

    Args:
        what: The runs, as in `tfpg.plot`.
        path: A figure of the scores to write: a ``.png``, ``.svg``, ``.pdf`` or ``.jpg`` file.
            None: write none.
        metric: A logged metric, as in `tfpg.plot`.
        dark: Whether the background of the figure is dark.

    Returns:
        A `Comparison`.

    Raises:
        FileNotFoundError: There is no such run, it has no metrics yet, or the folder of ``path``
            is missing.
        ValueError: A file of a run is broken, or a run has no such metric.

    Source:
        Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
        NeurIPS 2021.

    Example:
        >>> import tfpg
        >>> agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"))
        >>> history = agent.fit("CartPole-v1", iterations=2, verbose=0)
        >>> comparison = tfpg.compare({"REINFORCE": history})
        >>> comparison.scores[0].seeds, comparison.few_seeds
        (1, True)
    """
    if path is not None:
        check_figure(path)
    groups = groups_of(what)
    chosen = metric or choose_metric(groups)
    scores: list[Score] = []
    improvements: list[Improvement] = []
    for env in dict.fromkeys(group.env for group in groups):
        own = [(each, _final(each, chosen)) for each in groups if each.env == env]
        own.sort(key=lambda pair: -interquartile_mean(pair[1]))
        scores += [_score(*each) for each in own]
        improvements += [_improvement(*one, *other) for one, other in combinations(own, 2)]
    result = Comparison(
        chosen,
        tuple(scores),
        tuple(improvements),
        any(each.seeds < ENOUGH_SEEDS for each in scores),
        (*notes(groups, metric), *_notes_on_lengths(scores)),
    )
    if path is not None:
        save_figure(_figure(groups, result, DARK if dark else LIGHT), path)
    return result


def _notes_on_lengths(scores: list[Score]) -> list[str]:
    for env in dict.fromkeys(each.env for each in scores):
        steps = [each.env_steps for each in scores if each.env == env]
        if max(steps) > 1.5 * min(steps):
            where = f"In {env}, some" if env else "Some"
            return [f"{where} runs are much longer than others, which may explain the scores."]
    return []


def _final(group: Group, metric: str) -> np.ndarray:
    return np.array([run.score(metric) for run in group.runs])


def _score(group: Group, finals: np.ndarray) -> Score:
    low, high = _ends(interquartile_mean, finals)
    return Score(
        group.env,
        group.label,
        seeds=len(finals),
        env_steps=float(np.mean([run.env_steps for run in group.runs])),
        score=float(interquartile_mean(finals)),
        low=low,
        high=high,
        worst=float(finals.min()),
        best=float(finals.max()),
    )


def _improvement(group: Group, x: np.ndarray, other: Group, y: np.ndarray) -> Improvement:
    return Improvement(
        group.env,
        group.label,
        other.label,
        float(probability_of_improvement(x, y)),
        *_ends(probability_of_improvement, x, y),
    )


def _ends(statistic: Any, *samples: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """The bootstrap interval, if there are enough seeds for one."""
    if min(map(len, samples)) < SEEDS_OF_INTERVALS:
        return None, None
    low, high = bootstrap_interval(statistic, *samples)
    return float(low), float(high)


def _figure(groups: Sequence[Group], result: Comparison, theme: Theme) -> Any:
    """Draw the scores of seeds as dots, with the interquartile mean and its interval."""
    most = max(Counter(each.env for each in result.scores).values())
    figure, panels = new_panels(groups, theme, 0.5 * most + 0.7)
    styles = line_styles(groups, theme)
    finals = {(each.env, each.label): _final(each, result.metric) for each in groups}
    for env, axis in panels.items():
        rows = [each for each in result.scores if each.env == env]
        for y, each in enumerate(rows):
            color = styles[each.group]["color"]
            if each.low is not None:
                axis.plot(
                    [each.low, each.high],
                    [y, y],
                    color=color,
                    alpha=0.35,
                    linewidth=9,
                    solid_capstyle="butt",
                )
            axis.plot(each.score, y, "|", color=theme.text, markersize=16, markeredgewidth=2)
            axis.plot(finals[env, each.group], [y] * each.seeds, "o", color=color, markersize=4)
        axis.set_yticks(range(len(rows)), [textwrap.fill(each.group, 30) for each in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(METRIC_LABELS.get(result.metric, result.metric))
    what = [
        "dots: single seeds, in the last tenth of training",
        "lines: interquartile mean",
        "bars: 95% bootstrap interval" if any(x.low is not None for x in result.scores) else "",
        episodes_of(groups, result.metric),
    ]
    add_caption(figure, [sentence(what), *result.notes], theme)
    return figure
