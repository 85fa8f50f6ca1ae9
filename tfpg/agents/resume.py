"""Checkpoints of a run: their contents, the checks before a run resumes, and its restoration."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from tfpg.agents.callback_state import callbacks_state, prepare_callbacks, restore_callbacks
from tfpg.checkpoints.manager import Checkpoints
from tfpg.checkpoints.store import Checkpoint
from tfpg.core.messages import warn
from tfpg.models.inspection import all_layers
from tfpg.rollouts.env_state import running_statistics


class ResumableTraining:
    """A training run that may have checkpoints, and may resume from one.

    A checkpoint holds everything that changes: the agent with its variables and replay buffer, the
    positions of the environments in their episodes, and the state of callbacks.

    Args:
        checkpoints: The checkpoints, with their folder locked. None: no method does anything.

    Attributes:
        folder: Folder of the checkpoints, or None.

    Raises:
        CheckpointCorruptError: There are checkpoints, but none is intact.
        VersionSkewError: A newer tfpg or Keras wrote the newest one.
    """

    def __init__(self, checkpoints: Checkpoints | None):
        self.folder = None if checkpoints is None else checkpoints.folder
        self._checkpoints = checkpoints
        self._saved = None if checkpoints is None else checkpoints.load()
        self._description: dict[str, Any] = {}
        self._logged: np.ndarray | None = None  # `ReplayBuffer.written` of the last checkpoint

    def seed(self, seed: int | None) -> int | None:
        """Return the checkpoint's seed, or ``seed`` if there is none.

        Raises:
            ValueError: The seed is given, but the checkpoint has a different one.
        """
        if self._saved is None:
            return seed
        there = self._saved.header["training"]["seed"]
        if seed is not None and seed != there:
            raise ValueError(
                f"The checkpoint {str(self._saved.path)!r} has seed {there}, but here it is "
                f"{seed}: leave the seed out, or choose another folder."
            )
        return there

    def first_iteration(self, first: int) -> int:
        """Return the iteration after the checkpoint, or ``first`` if there is none."""
        return first if self._saved is None else self._saved.header["iteration"]

    def check(self, agent: Any, envs: VectorEnv, seed: int) -> None:
        """Raise an error unless the run can resume from the checkpoint with the same result.

        Raises:
            ValueError: The checkpoint belongs to a different agent, environment, seed or network.
        """
        if self._checkpoints is None:
            return
        here = self._description = describe_training(agent, envs, seed)
        if self._saved is not None:
            there = self._saved.header["training"]
            _check_equal(self._saved, {**there, **there["options"]}, {**here, **here["options"]})
            agent.check_state(self._saved.state["agent"])
            _check_equal(self._saved, there["networks"], here["networks"])

    def prepare(self, callbacks: Sequence[Any]) -> None:
        """Prepare callbacks to resume, before they begin."""
        if self._saved is not None:
            prepare_callbacks(callbacks, self._saved.state["callbacks"])

    def restore(self, agent: Any, collector: Any, callbacks: Sequence[Any]) -> bool:
        """Restore the checkpoint after callbacks have begun, and before anything is played.

        Returns:
            Whether there was a checkpoint.
        """
        self._agent, self._collector, self._callbacks = agent, collector, callbacks
        if self._checkpoints is None:
            return False
        if self._saved is None:
            collector.follow()
            _warn_about_statistics(collector.envs)
            return False
        state = self._saved.state
        restore_callbacks(callbacks, state["callbacks"])
        agent.set_state(state["agent"])
        if agent.replay is not None:
            agent.replay.set_state(state["replay"], self._checkpoints.log())
            self._logged = agent.replay.written
        restarted = collector.set_state(state["collector"])
        if restarted.any():
            warn(
                f"{int(restarted.sum())} of {len(restarted)} environments could not be restored, "
                "because the same actions did not lead to the same observations and rewards. Their "
                "episodes start over, so the result is not that of an uninterrupted run."
            )
            agent.restart_episodes(restarted)
        agent.model.stop_training = self._saved.header["stopped"]
        self._saved = None  # it is as large as the training state
        return True

    def save_if_due(self, iteration: int, last: bool) -> None:
        """Write a checkpoint after an iteration if it is time for one, or if it is the last.

        Args:
            iteration: The iteration, counted from 0.
            last: Whether no other checkpoint follows, so that a failure is an error.

        Raises:
            OSError: The last checkpoint could not be written.
        """
        if self._checkpoints is None or not (last or self._checkpoints.due(iteration)):
            return
        agent, replay = self._agent, self._agent.replay
        header = {
            "iteration": iteration + 1,
            "env_steps": agent.env_steps,
            "stopped": bool(agent.model.stop_training),
            "training": self._description,
        }
        state = {
            "agent": agent.get_state(),
            "collector": self._collector.get_state(),
            "callbacks": callbacks_state(self._callbacks),
        }
        log: dict[str, Any] = {}
        if replay is not None:
            state["replay"] = replay.get_state()
            log["entry"] = replay.rows_since(self._logged)
            log["position"] = int(replay.written.max())
            log["needed_from"] = int(replay.written.min()) + 1 - replay.rows
        if self._checkpoints.save(agent.env_steps, state, header, last=last, **log):
            self._logged = None if replay is None else replay.written


def describe_training(agent: Any, envs: VectorEnv, seed: int) -> dict[str, Any]:
    """Return the description that a checkpoint shares with the runs that resume from it.

    Returns:
        A dict for JSON: ``"agent"``, the spaces, ``"seed"``, ``"options"`` and ``"networks"``.
    """
    return _comparable(
        {
            "agent": type(agent).__name__,
            "observation_space": str(envs.single_observation_space),
            "action_space": str(envs.single_action_space),
            "seed": seed,
            "options": {**agent.get_config(), "num_envs": envs.num_envs},
            "networks": _networks(agent),
        }
    )


def _check_equal(saved: Checkpoint, there: dict[str, Any], here: dict[str, Any]) -> None:
    for name in {**there, **here}:
        a, b = there.get(name), here.get(name)
        if a != b and name not in ("options", "networks"):
            raise ValueError(
                f"The checkpoint {str(saved.path)!r} has {name} {a}, but here it is {b}: change it "
                "back, or choose another folder."
            )


def _warn_about_statistics(envs: VectorEnv) -> None:
    names = running_statistics(envs)
    if names:
        warn(
            f"Checkpoints do not hold the running statistics of {' and '.join(names)}, so the "
            "result of a resumed run is not that of an uninterrupted one. Those of a network's "
            "normalize=True and of an agent's reward_scale='auto' are saved."
        )


def _networks(agent: Any) -> dict[str, Any]:
    """Return facts about optimizers and layers, except names and learning rates.

    Variables alone are not enough: models with other activations or momentums have the same shapes.
    """
    facts: dict[str, Any] = {}
    for prefix, model in (("", agent.model), ("value ", getattr(agent, "value_model", None))):
        if model is None:
            continue
        config = _config(model.optimizer)
        if not isinstance(config.get("learning_rate"), dict):  # callbacks change it
            config.pop("learning_rate", None)
        facts[f"{prefix}optimizer"] = type(model.optimizer).__name__
        facts |= {f"{prefix}optimizer {key}": x for key, x in config.items()}
        for i, layer in enumerate(all_layers(model)):
            # The config of a custom layer may differ from one process to the next.
            if type(layer).__module__.startswith("keras.") and not hasattr(layer, "layers"):
                crc = zlib.crc32(json.dumps(_config(layer), sort_keys=True).encode())
                facts[f"{prefix}layer {i}"] = f"{type(layer).__name__} ({crc:08x})"
    return facts


def _config(made: Any) -> dict[str, Any]:
    """Return the config of a layer or an optimizer, or an empty one if it has none."""
    try:
        return _comparable(made.get_config())
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return {}


def _comparable(value: Any) -> Any:
    """Return a value as JSON gives it back, without names and memory addresses."""
    if isinstance(value, dict):
        return {str(k): _comparable(x) for k, x in value.items() if k != "name"}
    if isinstance(value, (list, tuple)):
        return [_comparable(x) for x in value]
    if isinstance(value, str):
        return re.sub(" at 0x[0-9a-f]+", "", value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value.item() if isinstance(value, np.generic) else type(value).__name__
