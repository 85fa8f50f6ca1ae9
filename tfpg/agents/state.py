"""What a training is made of beside its settings, as plain state: to save, and to go on from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip

from tfpg.errors import warn

# Attributes that a stock Keras callback carries from one epoch to the next.
_STOCK: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best", "epochs_since_last_save"),
    keras.callbacks.History: ("history", "epoch"),
}


def variables_state(variables: Sequence[Any]) -> dict[str, Any]:
    """Names and values of Keras variables.

    Example:
        >>> variables_state([keras.Variable([1.0], name="bias")])
        {'names': ['bias'], 'values': [array([1.], dtype=float32)]}
    """
    return {
        "names": [v.path for v in variables],
        "values": [np.array(v.value.numpy()) for v in variables],
    }


def check_variables_state(variables: Sequence[Any], state: dict[str, Any], what: str) -> None:
    """Raises where the values of a state are of other variables.

    Args:
        variables: Of Keras, in the order of the state's.
        state: See `variables_state`.
        what: They are, for the error.

    Raises:
        ValueError: There are others, or one has another shape.

    Example:
        >>> state = variables_state([keras.Variable([1.0, 2.0], name="bias")])
        >>> check_variables_state([keras.Variable([1.0], name="b")], state, "model")
        Traceback (most recent call last):
            ...
        ValueError: The checkpoint is of another model: its 'bias' has shape (2,), and 'b' (1,).
    """
    names, values = state["names"], state["values"]
    for v, name, x in zip(variables, names, values, strict=False):
        if tuple(v.shape) != x.shape:
            raise ValueError(
                f"The checkpoint is of another {what}: its {name!r} has shape {x.shape}, and "
                f"{v.path!r} {tuple(v.shape)}."
            )
    if len(variables) != len(values):
        raise ValueError(
            f"The checkpoint is of another {what}: it has {len(values)} variables, and this one "
            f"{len(variables)}."
        )


def agent_state(agent: Any) -> dict[str, Any]:
    """The weights of an agent's models, its optimizers, its statistics, and its count of steps."""
    state: dict[str, Any] = {
        "env_steps": agent.env_steps,
        "model": variables_state(agent.model.weights),
        "head": variables_state(agent.policy.head.variables),
        "optimizers": [variables_state(x.variables) for x, _ in agent._trainable.groups],
        "statistics": [each.get_state() for each in agent._statistics],
    }
    if getattr(agent, "value_model", None) is not None:
        state["value_model"] = variables_state(agent.value_model.weights)
    return state


def set_agent_state(agent: Any, state: dict[str, Any]) -> None:
    """Gives an agent, which is built, what `agent_state` told of another.

    Raises:
        ValueError: A model or an optimizer is another; nothing was changed.
    """
    groups = agent._trainable.groups
    fits = [
        (agent.model.weights, state["model"], "model"),
        (agent.policy.head.variables, state["head"], "head"),
        *(
            (optimizer.variables, told, "optimizer")
            for (optimizer, _), told in zip(groups, state["optimizers"], strict=True)
        ),
    ]
    if getattr(agent, "value_model", None) is not None:
        fits.append((agent.value_model.weights, state["value_model"], "value model"))
    for variables, told, what in fits:
        check_variables_state(variables, told, what)
    for variables, told, _ in fits:
        for v, x in zip(variables, told["values"], strict=True):
            v.assign(x)
    for each, told in zip(agent._statistics, state["statistics"], strict=True):
        each.set_state(told)
    agent.env_steps = state["env_steps"]


def callbacks_state(callbacks: Sequence[Any]) -> list[Any]:
    """The state of each callback: its own ``get_state``, or what a stock one of Keras carries.

    Example:
        >>> stop = keras.callbacks.EarlyStopping("episode_return", mode="max", patience=3)
        >>> stop.on_train_begin()
        >>> callbacks_state([stop])[0]["state"]["wait"]
        0
    """
    return [{"class": type(x).__name__, "state": _state_of(x)} for x in _carriers(callbacks)]


def prepare_callbacks(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    """Before callbacks begin: checks that they are those of a state, and shortens their logs.

    Raises:
        ValueError: They are others.
    """
    carriers = _carriers(callbacks)
    here, there = [type(x).__name__ for x in carriers], [x["class"] for x in states]
    if here != there:
        raise ValueError(
            f"The checkpoint was written with the callbacks {', '.join(there) or 'none'}, and here "
            f"are {', '.join(here) or 'none'}: give the same ones, in their order."
        )
    for each, told in zip(carriers, states, strict=True):
        if isinstance(each, keras.callbacks.CSVLogger):
            _shorten(Path(each.filename), told["state"]["bytes"])
            each.append = True


def set_callbacks_state(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    """Gives callbacks, which have begun, the states they had."""
    for each, told in zip(_carriers(callbacks), states, strict=True):
        if hasattr(each, "set_state"):
            each.set_state(told["state"])
        elif isinstance(each, keras.callbacks.CSVLogger):
            each.keys = told["state"]["keys"]
        else:
            for name, value in (told["state"] or {}).items():
                setattr(each, name, _copied(value))


def _carriers(callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks but the progress bar, which is as the terminal is."""
    return [x for x in callbacks if not isinstance(x, keras.callbacks.ProgbarLogger)]


def _state_of(callback: Any) -> Any:
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        size = Path(callback.filename).stat().st_size  # flushed with every row
        return {"bytes": size, "keys": callback.keys}
    for kind, names in _STOCK.items():
        if isinstance(callback, kind):
            return {name: getattr(callback, name, None) for name in names}
    return None


def _shorten(path: Path, size: int) -> None:
    """Takes away the rows that are going to be written again."""
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        warn(
            f"{str(path)!r} had {size:,} bytes at the checkpoint, and has {found:,}: rows are "
            "missing."
        )
    elif found > size:
        os.truncate(path, size)


def _copied(value: Any) -> Any:
    """Lists and dicts that may change; arrays are read and not written."""
    if isinstance(value, dict):
        return {key: _copied(x) for key, x in value.items()}
    return [_copied(x) for x in value] if isinstance(value, list) else value
