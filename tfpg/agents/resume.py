"""Checkpoints of a training: what they hold, what they must match, and how it is restored."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpg.agents.callback_state import callbacks_state, restore_callbacks
from tfpg.checkpoints.manager import Checkpoints
from tfpg.checkpoints.store import Checkpoint
from tfpg.core.messages import warn
from tfpg.models.inspection import all_layers
from tfpg.rollouts.env_state import running_statistics


def describe_training(agent: Any, envs: Any, seed: int) -> dict[str, Any]:
    """Return what a checkpoint must have in common with a training that resumes from it.

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


def saved_seed(saved: Checkpoint, seed: int | None) -> int:
    """Return the seed of a checkpoint.

    Raises:
        ValueError: ``seed`` is given, and is another one.
    """
    there = saved.header["training"]["seed"]
    if seed is not None and seed != there:
        raise ValueError(
            f"The checkpoint {str(saved.path)!r} has seed {there}, and here it is {seed}: leave "
            "the seed out, or choose another folder."
        )
    return there


def check_resumable(agent: Any, saved: Checkpoint, training: dict[str, Any]) -> None:
    """Raise an error unless a training can resume from a checkpoint with the same result.

    Args:
        agent: The agent, which is not changed.
        saved: The checkpoint.
        training: Description of the training, from `describe_training`.

    Raises:
        ValueError: Something differs.
    """
    there = saved.header["training"]
    _check_equal(saved, {**there, **there["options"]}, {**training, **training["options"]})
    agent.check_state(saved.state["agent"])
    _check_equal(saved, there["networks"], training["networks"])


def _check_equal(saved: Checkpoint, there: dict[str, Any], here: dict[str, Any]) -> None:
    for name in {**there, **here}:
        a, b = there.get(name), here.get(name)
        if a != b and name not in ("options", "networks"):
            raise ValueError(
                f"The checkpoint {str(saved.path)!r} has {name} {a}, and here it is {b}: change it "
                "back, or choose another folder."
            )


def _networks(agent: Any) -> dict[str, Any]:
    """Return facts about optimizers and layers, except names and learning rates.

    Variables of the same shapes fit other activations and momentums, so variables are not enough.
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
    """Return the config of a layer or an optimizer, or an empty one if it cannot tell it."""
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


class TrainingState:
    """All that a training needs to continue bit for bit: its agent, environments and callbacks.

    Args:
        checkpoints: Where it is saved.
        agent: The agent.
        collector: Its collector.
        callbacks: All callbacks, Keras's History included.
        training: Description of the training, from `describe_training`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        agent: Any,
        collector: Any,
        callbacks: Sequence[Any],
        training: dict[str, Any],
    ):
        self.checkpoints = checkpoints
        self.agent = agent
        self.collector = collector
        self.callbacks = callbacks
        self.training = training
        self._logged: np.ndarray | None = None  # `ReplayBuffer.written` of the last checkpoint

    def begin(self) -> None:
        """Prepare a training that does not resume, before anything is played."""
        self.collector.follow()
        names = running_statistics(self.collector.envs)
        if names:
            warn(
                f"Checkpoints do not hold the running statistics of {' and '.join(names)}, so a "
                "training that resumes is not bit for bit the same. Those of a network's "
                "normalize=True and of an agent's reward_scale='auto' are saved."
            )

    def save_if_due(self, iteration: int, last: bool) -> None:
        """Write a checkpoint after an iteration if it is time for one, or if it is the last.

        Args:
            iteration: The iteration, counted from 0.
            last: Whether no other checkpoint follows, so that a failure is an error.

        Raises:
            OSError: The last checkpoint could not be written.
        """
        if not last and not self.checkpoints.due(iteration):
            return
        agent, replay = self.agent, self.agent.replay
        header = {
            "iteration": iteration + 1,
            "env_steps": agent.env_steps,
            "stopped": bool(agent.model.stop_training),
            "training": self.training,
        }
        state = {
            "agent": agent.get_state(),
            "collector": self.collector.get_state(),
            "callbacks": callbacks_state(self.callbacks),
        }
        log: dict[str, Any] = {}
        if replay is not None:
            state["replay"] = replay.get_state()
            log["entry"] = replay.rows_since(self._logged)
            log["position"] = int(replay.written.max())
            log["needed_from"] = int(replay.written.min()) + 1 - replay.rows
        if self.checkpoints.save(agent.env_steps, state, header, last=last, **log):
            self._logged = None if replay is None else replay.written

    def restore(self, saved: Checkpoint) -> None:
        """Restore a checkpoint into fresh objects, whose callbacks have begun."""
        agent, state = self.agent, saved.state
        restore_callbacks(self.callbacks, state["callbacks"])
        agent.set_state(state["agent"])
        if agent.replay is not None:
            agent.replay.set_state(state["replay"], self.checkpoints.log())
            self._logged = agent.replay.written
        restarted = self.collector.set_state(state["collector"])
        if restarted.any():
            warn(
                f"{int(restarted.sum())} of {len(restarted)} environments could not be restored, "
                "because the same actions did not lead to the same observations and rewards. Their "
                "episodes start over, so the result is not that of an uninterrupted training."
            )
            agent.restart_episodes(restarted)
        agent.model.stop_training = saved.header["stopped"]
