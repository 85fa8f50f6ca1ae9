"""The metrics of training runs, from run folders and from the histories of `fit`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.files import open_regular
from tfpg.core.messages import warn
from tfpg.core.options import check_names
from tfpg.results.run_config import CONFIG, METRICS, read_config

TRAINING, VALIDATION = "episode_return", "val_episode_return"
_TAIL = 50_000  # bytes


class Run(NamedTuple):
    """The metrics of a training run.

    Attributes:
        name: What messages call it.
        curves: For each metric, environment steps ``[K]`` and values ``[K]``.
        env_steps: Environment steps of the whole run.
        algorithm: Empty if not known.
        env: Empty if not known.
        settings: Everything else that was chosen, the seed excluded.
        seed: None if not known.
        episodes: Episodes of each validation. None if not known.
    """

    name: str
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    env_steps: float
    algorithm: str = ""
    env: str = ""
    settings: Mapping[str, Any] = {}
    seed: int | None = None
    episodes: int | None = None

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the environment steps ``[K]`` and the finite values ``[K]`` of a metric.

        Raises:
            ValueError: It has none.
        """
        check_names([metric], self.curves, f"metric of {self.name}")
        if not self.curves[metric][0].size:
            raise ValueError(f"{self.name} has no {metric} yet.")
        return self.curves[metric]

    def score(self, metric: str) -> float:
        """Return the mean of a metric in the last tenth of the run, at least of its last value."""
        steps, values = self.curve(metric)
        late = steps >= 0.9 * self.env_steps
        return float(values[late].mean() if late.any() else values[-1])


class Group(NamedTuple):
    """Runs that differ only in their seeds."""

    label: str
    env: str
    runs: list[Run]


def groups_of(what: Any) -> list[Group]:
    """Return the groups of runs.

    Args:
        what: A run folder, a folder of run folders, a History, a list of them, or a dict of these
            by the labels of groups. Runs without labels are grouped by algorithm, environment and
            options. The groups are labeled by what differs between them.

    Raises:
        FileNotFoundError: There is no such run, or it has no metrics yet.
        ValueError: A file of a run is broken.
    """
    if isinstance(what, Mapping) and what:
        named = [(str(label), run) for label, runs in what.items() for run in _runs_of(runs)]
        keys = dict.fromkeys((label, run.env) for label, run in named)
        return [
            Group(*key, _without_copies([run for label, run in named if (label, run.env) == key]))
            for key in keys
        ]
    groups: dict[Any, list[Run]] = {}
    for run in _runs_of(what):
        key = run.algorithm, run.env, json.dumps(run.settings, sort_keys=True)
        groups.setdefault(key, []).append(run)
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for first, *_ in groups.values():
        kinds.setdefault((first.algorithm, first.env), []).append(first.settings)
    return [
        Group(_label(runs[0], kinds[key[:2]]), runs[0].env, _without_copies(runs))
        for key, runs in groups.items()
    ]


def choose_metric(groups: Iterable[Group]) -> str:
    """Return the return of the greedy policy, or that of training if a run has no validation."""
    return TRAINING if without_validation(groups) else VALIDATION


def without_validation(groups: Iterable[Group]) -> list[Run]:
    """Return the runs in which the greedy policy was not measured."""
    nothing = np.empty(0), np.empty(0)
    runs = [run for group in groups for run in group.runs]
    return [run for run in runs if not run.curves.get(VALIDATION, nothing)[0].size]


def _label(run: Run, settings: list[Mapping[str, Any]]) -> str:
    """What differs between a group and the others of its algorithm and environment."""
    names = dict.fromkeys(name for each in settings for name in each)
    differ = [x for x in names if any(each.get(x) != settings[0].get(x) for each in settings)]
    values = {name: run.settings[name] for name in differ if name in run.settings}
    texts = (f"{x:g}" if isinstance(x, float) else str(x) for x in values.values())
    return ", ".join([run.algorithm, *map("=".join, zip(values, texts, strict=True))])


def _without_copies(runs: list[Run]) -> list[Run]:
    """Leave out copies of a run, which are no further samples."""
    kept: dict[bytes, Run] = {}
    for run in runs:
        other = kept.setdefault(b"".join(x.tobytes() for _, x in run.curves.values()), run)
        if other is not run:
            warn(f"{run.name} is left out: its metrics equal those of {other.name}.")
    return list(kept.values())


def _runs_of(what: Any) -> list[Run]:
    """The runs of a folder, of a History, or of a list of them."""
    if isinstance(what, (str, os.PathLike)):
        return _runs_in(Path(what))
    if hasattr(what, "history"):
        return [_from_history(what)]
    if not isinstance(what, Iterable) or not (what := list(what)):
        raise ValueError(f"Expected run folders, histories, or a list of them, got {what!r}.")
    return [run for each in what for run in _runs_of(each)]


def _runs_in(folder: Path) -> list[Run]:
    """The run in a folder, or all runs in its folders."""
    if not folder.is_dir():
        raise FileNotFoundError(f"No run at {str(folder)!r}: pass a run folder.")
    if (folder / CONFIG).is_file():
        return [read_run(folder)]
    found = sorted(path.parent for path in folder.rglob(CONFIG))
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} is not a run: it has no {CONFIG}.")
    begun = [path for path in found if has_rows(path / METRICS)]
    for path in found:
        if begun and path not in begun:
            warn(f"{str(path)!r} is left out: it has no metrics yet.")
    return [read_run(path) for path in begun or found]


def has_rows(metrics: Path) -> bool:
    """Return whether a ``metrics.csv`` has a complete row."""
    return metrics.is_file() and any(map(bytes.strip, metrics.read_bytes().split(b"\n")[1:-1]))


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: It has no metrics yet.
        ValueError: Its config or its metrics are broken.
    """
    config = read_config(folder / CONFIG)
    if not has_rows(folder / METRICS):
        raise FileNotFoundError(f"{str(folder)!r} has no metrics yet: no iteration has ended.")
    columns = read_metrics(folder / METRICS)
    steps = columns["env_steps"]
    return Run(
        repr(str(folder)),
        {name: _finite(steps, values) for name, values in columns.items()},
        float(steps[-1]),
        str(config.get("algorithm", "")),
        config["env"],
        _settings(config),
        config.get("seed"),
        config.get("validation_episodes"),
    )


def last_metrics(folder: Path) -> dict[str, float]:
    """Return the newest value of each metric of a run, as far as they are in its last rows."""
    path, found = folder / METRICS, dict[str, float]()
    if not has_rows(path):
        return found
    with path.open("rb") as file:
        names = file.readline().decode().strip().split(",")
        if path.stat().st_size - _TAIL > file.tell():
            file.seek(-_TAIL, os.SEEK_END)
            file.readline()  # a part of a row
        rows = file.read().decode().split("\n")[:-1]
    for row in rows:
        values = row.strip().split(",")
        if len(values) == len(names):
            found |= {name: float(x) for name, x in zip(names, values, strict=True) if x != "NA"}
    return found


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Return the columns ``[K]`` of a ``metrics.csv``.

    A last line without an end is being written, and is ignored. If an iteration occurs twice, the
    last one counts.

    Raises:
        ValueError: A line is broken.
    """
    with open_regular(path) as file:
        header, *lines = file.read().decode(errors="replace").split("\n")[:-1]
    names = header.strip().split(",")
    rows: dict[int, dict[str, float]] = {}
    for line, text in enumerate(lines, 2):
        if not text.strip():
            continue
        try:
            values = [math.nan if x == "NA" else float(x) for x in text.strip().split(",")]
            if len(values) != len(names):
                raise ValueError(f"it has {len(values)} of {len(names)} values")
            row = dict(zip(names, values, strict=True))
            if not math.isfinite(row["env_steps"]):
                raise ValueError(f"env_steps is {row['env_steps']}")
            rows[int(row["epoch"])] = row
        except (ValueError, KeyError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{str(path)!r}, line {line}, is broken: {reason}.") from None
    ordered = [rows[epoch] for epoch in sorted(rows)]
    columns = {name: np.array([row[name] for row in ordered]) for name in names}
    falls = np.flatnonzero(np.diff(columns["env_steps"]) < 0)
    if falls.size:
        epoch = ordered[falls[0] + 1]["epoch"]
        raise ValueError(f"{str(path)!r} is broken: env_steps decreases in epoch {epoch:.0f}.")
    return columns


def _finite(steps: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    known = np.isfinite(values)
    return steps[known], values[known]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was chosen for a run, except its algorithm, environment and seed."""
    rate = config.get("optimizer", {}).get("config", {}).get("learning_rate")
    if isinstance(rate, Mapping):  # a schedule
        rate = rate.get("config", {}).get("initial_learning_rate")
    budget = "env_steps" if config.get("env_steps") else "iterations"
    critic = config.get("critic") or {}
    return {
        "learning_rate": rate,
        **config["options"],
        **config.get("network", {}),
        **{f"critic_{name}": value for name, value in critic.items()},
        budget: config.get(budget),
    }


def _from_history(history: Any) -> Run:
    logs = history.history
    if not logs.get("env_steps"):
        raise ValueError("The history has no iterations: train with fit first.")
    curves = {}
    for name, values in logs.items():
        steps = logs.get("val_env_steps" if name.startswith("val_") else "env_steps", [])
        steps = steps[-len(values) :]  # a shorter list is of the last iterations
        if len(steps) == len(values):
            curves[name] = _finite(steps, values)
    params = history.params or {}
    env, episodes = params.get("env", ""), params.get("validation_episodes")
    return Run("the history", curves, logs["env_steps"][-1], env=env, episodes=episodes)
