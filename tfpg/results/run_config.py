"""``config.json``, which records how to reproduce a run."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfpg.agents import ALGORITHMS
from tfpg.agents.registry import algorithm_class
from tfpg.checkpoints.manager import versions
from tfpg.core.files import atomic_write, describe_write_error, read_json
from tfpg.core.options import check_names, options_of
from tfpg.models.policy import Policy

CONFIG, METRICS = "config.json", "metrics.csv"  # of a run folder


@dataclasses.dataclass
class RunConfig:
    """The entries of ``config.json``.

    Attributes:
        command: The command that trains the same model.
        env_steps: The budget, if it was not given in iterations.
        options: The agent's options.
        head: The options of a `tfpg.Policy` that plays as the agent does.
        validation_episodes: Episodes of each evaluation of the greedy policy.
    """

    command: str
    algorithm: str
    env: str
    seed: int
    preset: str | None
    iterations: int
    env_steps: int | None
    network: dict[str, Any]
    critic: Mapping[str, Any] | None
    optimizer: dict[str, Any]
    options: dict[str, Any]
    head: dict[str, Any]
    validation_episodes: int | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=versions)
    finished: bool = False

    def write(self, folder: Path) -> None:
        """Write ``config.json``."""
        _write(folder / CONFIG, dataclasses.asdict(self))


def update_config(folder: Path, **entries: Any) -> None:
    """Replace entries of ``config.json``."""
    path = folder / CONFIG
    before = json.loads(path.read_text())
    if (after := json.loads(json.dumps({**before, **entries}))) != before:
        _write(path, after)


def _write(path: Path, config: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        try:
            temporary.write_text(json.dumps(config, indent=2) + "\n")
        except OSError as error:
            reason = describe_write_error(error, path)
            text = f"{str(path)!r} cannot be written ({reason}): free some space."
            raise OSError(text) from error


def read_config(path: Path) -> dict[str, Any]:
    """Return the entries of a ``config.json``.

    Raises:
        ValueError: It is not the config of a run.
    """
    config = read_json(path)
    try:
        check_names(config, [x.name for x in dataclasses.fields(RunConfig)], "entry")
        check_names(dict(config["head"]), inspect.signature(Policy).parameters, "head option")
        if config.get("algorithm", ALGORITHMS[0]) in ALGORITHMS:  # not of a module to import
            agents = map(algorithm_class, ALGORITHMS)
            known = {name: None for agent in agents for name in options_of(agent)}
            check_names(dict(config["options"]), known, "agent option")
        return {**config, "env": str(config["env"]), "max_steps": config["options"]["max_steps"]}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{str(path)!r} is not the config of a run: {reason}") from error
