"""Checkpoints of a run: their contents, the checks before a run resumes, and its restoration."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from tfpg.agents.optimization import has_schedule
from tfpg.checkpoints.manager import Checkpoints
from tfpg.checkpoints.store import Checkpoint
from tfpg.core.backend import keras, read_variable, tf
from tfpg.core.messages import warn
from tfpg.models.inspection import all_layers
from tfpg.rollouts.env_state import describe_env, running_statistics

# Keras's own callbacks have no get_state method: these are the attributes with their state.
# Other callbacks without get_state and set_state start from scratch.
_CARRIED_BY = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
    "TensorBoard": ("_global_train_batch", "_global_test_batch", "_previous_epoch_iterations"),
    "ModelCheckpoint": (
        *("best", "epochs_since_last_save"),
        *("_batches_seen_since_last_saving", "_last_batch_seen"),
    ),
}


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

    @property
    def every_iterations(self) -> int | None:
        """Iterations between two checkpoints, if they are not written by time."""
        return None if self._checkpoints is None else self._checkpoints.every_iterations

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
            # Callbacks may have changed the learning rates, and this may be the same agent.
            current = self._saved.header.get("learning_rate", there.get("learning_rate"))
            if here["learning_rate"] != current:
                _check_equal(self._saved, there, here, ("learning_rate",))

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
                "because the same seeds and actions did not lead to the same observations and "
                "rewards: the result is not that of an uninterrupted run. If their state outlives "
                "episodes, give the environment get_state() and set_state(state)."
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
            "learning_rate": _learning_rates(agent),
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
        A dict for JSON: ``"agent"``, ``"environment"``, ``"learning_rate"``, the spaces,
        ``"seed"``, ``"options"`` and ``"networks"``.
    """
    return _comparable(
        {
            "agent": type(agent).__name__,
            "observation_space": str(envs.single_observation_space),
            "action_space": str(envs.single_action_space),
            "environment": describe_env(envs),
            "learning_rate": _learning_rates(agent),
            "seed": seed,
            "options": {**agent.get_config(), "num_envs": envs.num_envs},
            "networks": _networks(agent),
        }
    )


def _check_equal(
    saved: Checkpoint, there: dict[str, Any], here: dict[str, Any], names: Sequence[str] = ()
) -> None:
    for name in names or {**there, **here}:
        a, b = there.get(name), here.get(name)
        if a != b and (names or name not in ("options", "networks", "learning_rate")):
            raise ValueError(
                f"The checkpoint {str(saved.path)!r} has {name} {a}, but here it is {b}: change it "
                "back, or choose another folder."
            )


def _learning_rates(agent: Any) -> list[float | None]:
    """The learning rate of each model's optimizer, None for a schedule."""
    optimizers = [model.optimizer for model in agent.models]
    rates = [
        None if has_schedule(each) else float(read_variable(each.learning_rate))
        for each in optimizers
    ]
    return [rate and float(f"{rate:.7g}") for rate in rates]  # as given, not as in float32


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
    for prefix, model in zip(("", "value "), agent.models, strict=False):
        config = _config(model.optimizer)
        if not isinstance(config.get("learning_rate"), dict):  # compared by _check_rates
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


def callbacks_state(callbacks: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the class and the state of each callback.

    Example:
        >>> stop = keras.callbacks.EarlyStopping("episode_return", mode="max", patience=3)
        >>> stop.on_train_begin()
        >>> callbacks_state([stop])[0]["state"]["wait"]
        0
    """
    return [{"class": type(x).__name__, "state": _state(x)} for x in _saved(callbacks)]


def prepare_callbacks(callbacks: Sequence[Any], states: Sequence[dict[str, Any]]) -> None:
    """Prepare callbacks to resume, before they begin: cut CSV rows that will be written again.

    Raises:
        ValueError: They are not the callbacks whose states these are.
    """
    saved = _saved(callbacks)
    here, there = [type(x).__name__ for x in saved], [x["class"] for x in states]
    if here != there:
        raise ValueError(
            f"The checkpoint was written with the callbacks {', '.join(there) or 'none'}, but here "
            f"are {', '.join(here) or 'none'}: pass the same ones in the same order."
        )
    for callback, each in zip(saved, states, strict=True):
        if isinstance(callback, keras.callbacks.CSVLogger):
            _cut(Path(callback.filename), each["state"]["bytes"])
            callback.append = True


def restore_callbacks(callbacks: Sequence[Any], states: Sequence[dict[str, Any]]) -> None:
    """Restore the states of callbacks that have begun."""
    for callback, each in zip(_saved(callbacks), states, strict=True):
        state = each["state"]
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        elif isinstance(callback, keras.callbacks.CSVLogger):
            callback.keys = state["keys"]
        elif isinstance(callback, keras.callbacks.History):
            callback.epoch = list(state["epoch"])
            callback.history = {name: _as_list(x) for name, x in state["history"].items()}
        else:
            for name, value in (state or {}).items():
                setattr(callback, name, value)


def _saved(callbacks: Sequence[Any]) -> list[Any]:
    """Return all callbacks except the progress bar, which depends on the terminal."""
    from tfpg.callbacks.progress_bar import ProgressBar

    bars = keras.callbacks.ProgbarLogger, ProgressBar
    return [x for x in callbacks if not isinstance(x, bars)]


def _state(callback: Any) -> Any:
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        # Keras flushes the file after each row.
        return {"bytes": os.path.getsize(callback.filename), "keys": callback.keys}
    if isinstance(callback, keras.callbacks.History):
        history = {name: _as_array(x) for name, x in callback.history.items()}
        return {"epoch": callback.epoch, "history": history}
    for name, attributes in _CARRIED_BY.items():
        if isinstance(callback, getattr(keras.callbacks, name)):
            return {attribute: getattr(callback, attribute, None) for attribute in attributes}
    return None


def _as_array(values: list[Any]) -> Any:
    """Return a long list of floats as an array, which takes a tenth of the time to write."""
    return np.array(values) if set(map(type, values)) == {float} else values


def _as_list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _cut(path: Path, size: int) -> None:
    """Cut a CSV file to the size it had."""
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        warn(
            f"{str(path)!r} had {size:,} bytes at the checkpoint, but has {found:,} now: rows "
            "are missing."
        )
        if found:  # the last row may be incomplete
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    elif found > size:
        os.truncate(path, size)


def variables_state(groups: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the values of variables.

    Args:
        groups: Keras or TensorFlow variables by their owner, ``"model"`` for example.

    Returns:
        For each group the ``names``, ``dtypes`` and ``values`` of its variables.

    Example:
        >>> state = variables_state({"model": [keras.Variable([1.0, 2.0], name="bias")]})
        >>> state["model"]["names"], state["model"]["values"]
        (['bias'], [array([1., 2.], dtype=float32)])
    """
    return {
        group: {
            "names": [_name(v) for v in variables],
            "dtypes": [_dtype(v) for v in variables],
            "values": [_plain(v.numpy()) for v in variables],
        }
        for group, variables in groups.items()
    }


def check_variables(groups: Mapping[str, Sequence[Any]], state: Mapping[str, Any]) -> None:
    """Raise an error unless variables have the dtypes and shapes of those of a state.

    Raises:
        ValueError: They differ.
    """
    nothing: dict[str, Any] = {"names": [], "dtypes": [], "values": []}
    for group in {**groups, **state}:
        here, there = groups.get(group, ()), state.get(group, nothing)
        saved = list(zip(there["names"], there["dtypes"], there["values"], strict=True))
        for v, (name, dtype, value) in zip(here, saved, strict=False):
            if (_dtype(v), tuple(v.shape)) != (dtype, value.shape):
                raise ValueError(
                    f"The checkpoint is of a different {group}: its {name!r} is {dtype} of shape "
                    f"{list(value.shape)}, but {_name(v)!r} here is {_dtype(v)} of shape "
                    f"{list(v.shape)}."
                )
        if len(here) != len(saved):
            raise ValueError(
                f"The checkpoint is of a different {group}: it has {len(saved)} variables, but "
                f"this one has {len(here)}."
            )


def assign_variables(groups: Mapping[str, Sequence[Any]], state: Mapping[str, Any]) -> None:
    """Assign the values of a state to variables like the ones it was taken from.

    Raises:
        ValueError: The variables differ. Nothing was assigned.
    """
    check_variables(groups, state)
    for group, variables in groups.items():
        for v, value in zip(variables, state[group]["values"], strict=True):
            v.assign(tf.cast(value, v.dtype))


def _plain(value: Any) -> np.ndarray:
    """Return an array in a dtype of NumPy's own: bfloat16 becomes float32, which holds the same."""
    value = np.asarray(value)
    return value if value.dtype.kind in "biuf" else value.astype(np.float32)


def _name(v: Any) -> str:
    return v.path if isinstance(v, keras.Variable) else v.name


def _dtype(v: Any) -> str:
    return tf.as_dtype(v.dtype).name
