"""What is said about an environment: the report, and its rows from what was seen.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import shutil
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.checks.contracts import OK, PROBLEM, WARNING, Fault, squeezed
from tfpg.checks.trying import Findings, Walk
from tfpg.models.action_spaces import ALGORITHMS, algorithms_for, heads_of
from tfpg.models.observations import check_space

# A policy's normals begin with a standard deviation of 1: bounds should be about as far.
_NEAR, _FAR = 0.1, 10.0
# From here on, numbers are large for a network.
_LARGE = 100.0
# Of what an environment warned of.
_WARNINGS = 3


class Row(NamedTuple):
    """A line of a report.

    Attributes:
        what: What was looked at.
        verdict: ``"ok"``, ``"warning"``, which tfpg copes with, or ``"problem"``.
        detail: In words.
    """

    what: str
    verdict: str
    detail: str


@dataclass(frozen=True, repr=False)
class Report:
    """What `tfpg.check_env` found, shown as a table.

    Attributes:
        env: What was looked at.
        seed: Of the first episode.
        rows: What was looked at, the verdict and the detail of each.
        hangs: A call to the environment has not come back, and holds a thread.

    Example:
        >>> report = Report("Mine-v0", 0, (Row("rewards", "problem", "nan (step 7, seed 0)"),))
        >>> report.ok
        False
        >>> report
        rewards  problem  nan (step 7, seed 0)
    """

    env: str
    seed: int
    rows: tuple[Row, ...]
    hangs: bool = False

    @property
    def ok(self) -> bool:
        """There is no problem; there may be warnings."""
        return all(row.verdict != PROBLEM for row in self.rows)

    def table(self, width: int = 80) -> str:
        """The rows, in lines of at most this width, or of 60 where that is more."""
        first = max(len(row.what) for row in self.rows) + 2
        second = max(len(row.verdict) for row in self.rows) + 2
        indent, width = " " * (first + second), max(width, 60)
        lines = []
        for what, verdict, detail in self.rows:
            text = f"{what:{first}}{verdict:{second}}{detail}"
            lines += textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        rows = [row._asdict() for row in self.rows]
        return {"env": self.env, "seed": self.seed, "ok": self.ok, "rows": rows}

    def __repr__(self) -> str:
        return self.table(min(shutil.get_terminal_size().columns, 100))


def describe_space(space: gymnasium.Space) -> str:
    """A space in a few words.

    Example:
        >>> describe_space(spaces.Box(-1, np.inf, (4,), np.float32))
        'Box (4,) float32, from -1 to inf'
    """
    if isinstance(space, spaces.Box):
        bounds = f", from {space.low.min():.6g} to {space.high.max():.6g}" if space.low.size else ""
        return f"Box {space.shape} {space.dtype}{bounds}"
    if isinstance(space, spaces.Dict):
        return "; ".join(f"{key}: {describe_space(part)}" for key, part in space.items())
    return str(space)


def observation_space_faults(space: gymnasium.Space) -> Iterator[Fault]:
    """Whether images have their channels last.

    Example:
        >>> [fault.kind for fault in observation_space_faults(spaces.Box(0, 255, (3, 64, 64)))]
        ['channels']
    """
    for part in space.values() if isinstance(space, spaces.Dict) else [space]:
        shape = part.shape or ()
        if len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4:
            yield Fault(
                WARNING,
                "channels",
                f"{shape} looks like an image with its channels first, and Keras's convolutions "
                "take them last: gymnasium.wrappers.TransformObservation",
            )


def action_space_faults(space: gymnasium.Space) -> Iterator[Fault]:
    """Whether the bounds of a `Box` are where a fresh policy explores.

    Example:
        >>> [fault.kind for fault in action_space_faults(spaces.Box(-500, 500, (1,)))]
        ['scale']
    """
    if isinstance(space, spaces.Box) and space.is_bounded("both") and space.low.size:
        reach = (space.high.astype(np.float64) - space.low) / 2
        if reach.max() > _FAR or reach.min() < _NEAR:
            yield Fault(
                WARNING,
                "scale",
                f"bounds from {space.low.min():.6g} to {space.high.max():.6g}, and a fresh policy "
                "explores by a standard deviation of 1: gymnasium.wrappers.RescaleAction to -1, 1",
            )


def space_rows(observations: gymnasium.Space, actions: gymnasium.Space) -> Iterator[Row]:
    """What tfpg makes of an environment's spaces, and which algorithms learn in them.

    Example:
        >>> for row in space_rows(spaces.Discrete(5), spaces.Box(-1, 1, (1,))):
        ...     print(*row, sep=": ")
        observation space: ok: Discrete(5)
        action space: ok: Box (1,) float32, from -1 to 1; a model of 2 or 1 outputs
        algorithms: ok: reinforce, a2c, ppo; not dqn, whose actions are Discrete
    """
    observed: list[tuple[str, str]] = []
    played: list[tuple[str, str]] = []
    try:
        check_space(observations)
        observed = [(f.verdict, f.detail) for f in observation_space_faults(observations)]
    except ValueError as error:
        observed = [(PROBLEM, squeezed(error))]
    try:
        outputs = " or ".join(map(str, heads_of(actions)[0]))
        told = f"{describe_space(actions)}; a model of {outputs} outputs"
        played = [(f.verdict, f.detail) for f in action_space_faults(actions)] or [(OK, told)]
    except ValueError as error:
        played = [(PROBLEM, squeezed(error))]
    yield from (
        Row("observation space", *row) for row in observed or [(OK, describe_space(observations))]
    )
    yield from (Row("action space", *row) for row in played)
    names = algorithms_for(actions)
    if not names or any(verdict == PROBLEM for verdict, _ in observed):
        yield Row("algorithms", PROBLEM, f"none of {', '.join(ALGORITHMS)} takes these spaces")
        return
    missing = [name for name in ALGORITHMS if name not in names]
    but = f"; not {', '.join(missing)}, whose actions are Discrete" if missing else ""
    yield Row("algorithms", OK, ", ".join(names) + but)


def played_rows(seen: Walk, findings: Findings, steps: int, limit: int | None) -> Iterator[Row]:
    """What was seen in random steps.

    Args:
        seen: In them.
        findings: What was wrong.
        steps: How many there should have been.
        limit: The time limit of episodes.

    Example:
        >>> seen = Walk(steps=9, resets=2, lengths=[8], rewards=(1, 1), observed=(-2, 3))
        >>> for row in played_rows(seen, Findings(), 9, None):
        ...     print(row.what, row.detail, sep=": ")
        reset: returns (observation, info), takes seed= and options=
        step: returns its five values, 9 times
        observations: finite and in their space, from -2 to 3
        copies: observations stay as they were given
        rewards: finite numbers, always 1
        episodes: 1 ended, after 8 steps; no time limit
    """
    made = f"returns its five values, {seen.steps:,} times"
    if seen.cut:
        made += f" of {steps:,}: time was short, give more seconds"
    well = {
        "reset": (seen.resets, "returns (observation, info), takes seed= and options="),
        "step": (seen.steps, made),
        "observations": (seen.resets, f"finite and in their space{_range(seen)}"),
        "copies": (seen.steps, "observations stay as they were given"),
        "rewards": (seen.steps, "finite numbers, " + _between(*seen.rewards)),
    }
    for what, (count, text) in well.items():
        found = findings.of(what)
        yield from (Row(what, *row) for row in found or ([(OK, text)] if count else []))
    if seen.lengths or seen.cut or seen.steps >= steps:
        yield _episodes(seen, limit)


def _range(seen: Walk) -> str:
    low, high = seen.observed
    if not low <= high:
        return ""
    large = np.isfinite(high - low) and max(-low, high) > _LARGE and seen.real
    hint = ": networks with normalize=True standardize them" * large
    return f", {_between(low, high)}{hint}"


def _between(low: float, high: float) -> str:
    return f"always {low:.6g}" if low == high else f"from {low:.6g} to {high:.6g}"


def _episodes(seen: Walk, limit: int | None) -> Row:
    limited = f"time limit {limit:,}" if limit else "no time limit"
    if not seen.lengths and limit:
        return Row("episodes", OK, f"none ended in {seen.steps:,} random steps; {limited}")
    if not seen.lengths:
        none = f"none ended in {seen.steps:,} random steps, and there is no time limit"
        return Row("episodes", WARNING, f"{none}: cut them by max_steps")
    count, short, long = len(seen.lengths), min(seen.lengths), max(seen.lengths)
    between = f"{short:,}" if short == long else f"{short:,} to {long:,}"
    cut = "all truncated" if seen.truncated == count else f"{seen.truncated:,} truncated"
    cut = f" ({cut})" * bool(seen.truncated)
    return Row("episodes", OK, f"{count:,} ended, after {between} steps{cut}; {limited}")


def warned_rows(said: Iterable[warnings.WarningMessage]) -> Iterator[Row]:
    """What the environment warned of; Gymnasium's own checks are left out, for they are made here.

    Example:
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warnings.warn("The lander hovers.")
        >>> [row.detail for row in warned_rows(said)]
        ['The lander hovers.']
    """
    texts = [
        squeezed(str(warning.message)).removeprefix("WARN: ")
        for warning in said
        if issubclass(warning.category, (UserWarning, RuntimeWarning))
        and "passive_env_checker" not in warning.filename
    ]
    for text in list(dict.fromkeys(texts))[:_WARNINGS]:
        yield Row("warnings", WARNING, text)
