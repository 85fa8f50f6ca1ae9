"""The state that callbacks carry from one epoch to the next, to save and to restore.

Their ``get_state()`` returns it. Keras's own callbacks have no such method, so the attributes with
their state are listed here. Other callbacks without ``get_state`` and ``set_state`` start from
scratch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpg.core.backend import keras
from tfpg.core.messages import warn

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
    return [x for x in callbacks if not isinstance(x, keras.callbacks.ProgbarLogger)]


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
