"""What a training is made of beside its settings, as plain state: to save, and to go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from tfpg.core.backend import keras, tf
from tfpg.core.messages import warn

_grown: WeakKeyDictionary[Any, dict[Any, Numbers]] = WeakKeyDictionary()

# Attributes that a stock Keras callback carries from one epoch to the next.
_STOCK: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: (
        *("_global_train_batch", "_global_test_batch", "_previous_epoch_iterations"),
    ),
    keras.callbacks.ModelCheckpoint: (
        *("best", "epochs_since_last_save"),
        *("_batches_seen_since_last_saving", "_last_batch_seen"),
    ),
}


_NUMBERS = (bool, int, float, np.bool_, np.number, tf.Tensor)


class Variables:
    """Many variables in named groups, read in one call and assigned all or none.

    Args:
        groups: Variables of Keras or TensorFlow by what they are, ``"model"`` for example.

    Example:
        >>> kept = Variables({"model": [keras.Variable([1.0, 2.0], name="bias")]})
        >>> state = kept.get_state()
        >>> state["groups"], state["values"]
        ('{"model": [["bias", "float32", [2]]]}', {'float32': array([1., 2.], dtype=float32)})
    """

    def __init__(self, groups: dict[str, Sequence[Any]]):
        self.groups = groups
        self._told = {
            what: [[_name(v), _dtype(v), list(v.shape)] for v in variables]
            for what, variables in groups.items()
        }
        self._text = json.dumps(self._told)  # once: it is as long as all else in a checkpoint
        by_dtype: dict[str, list[Any]] = {}
        for variables in groups.values():
            for v in variables:
                by_dtype.setdefault(_dtype(v), []).append(_raw(v))

        # A call for each costs more than all that is computed in a short iteration's checkpoint.
        def read() -> dict[str, tf.Tensor]:
            return {
                dtype: _plain(tf.concat([tf.reshape(v, [-1]) for v in variables], axis=0))
                for dtype, variables in by_dtype.items()
            }

        self._read = tf.function(read, autograph=False).get_concrete_function()
        self._dtypes = sorted(by_dtype)  # as they come out
        # What calling a function takes beside this takes as long again.
        self._call = {
            "args": self._read.captured_inputs,
            "Tout": [x.dtype for x in self._read.outputs],
            "f": self._read.name.decode(),
        }

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes: names, dtypes and shapes, as JSON, and each dtype's numbers."""
        found = tf.raw_ops.StatefulPartitionedCall(**self._call)
        values = {dtype: x.numpy() for dtype, x in zip(self._dtypes, found, strict=True)}
        return {"groups": self._text, "values": values}

    def check(self, state: dict[str, Any]) -> None:
        """Raises unless a state is of variables like these.

        Raises:
            ValueError: It is of others.
        """
        groups = json.loads(state["groups"])
        for what in {**self._told, **groups}:
            here, there = self._told.get(what, []), groups.get(what, [])
            for (name, *kind), (other, *its) in zip(here, there, strict=False):
                if kind != its:
                    raise ValueError(
                        f"The checkpoint is of another {what}: its {other!r} is {its[0]} of shape "
                        f"{its[1]}, and {name!r} here is {kind[0]} of shape {kind[1]}."
                    )
            if len(here) != len(there):
                raise ValueError(
                    f"The checkpoint is of another {what}: it has {len(there)} variables, and "
                    f"this one {len(here)}."
                )

    def set_state(self, state: dict[str, Any]) -> None:
        """Assigns what a state of variables like these holds.

        Raises:
            ValueError: It is of others; nothing was changed.
        """
        self.check(state)
        taken = dict.fromkeys(state["values"], 0)
        for variables in self.groups.values():
            for v in variables:
                dtype, first = _dtype(v), taken[_dtype(v)]
                taken[dtype] = first + int(np.prod(v.shape))
                values = np.reshape(state["values"][dtype][first : taken[dtype]], v.shape)
                v.assign(tf.cast(values, v.dtype))


def _plain(x: tf.Tensor) -> tf.Tensor:
    """Numbers as NumPy knows them, none of them changed."""
    return tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x


def _raw(v: Any) -> Any:
    return v.value if isinstance(v, keras.Variable) else v


def _name(v: Any) -> str:
    return v.path if isinstance(v, keras.Variable) else v.name


def _dtype(v: Any) -> str:
    return tf.as_dtype(v.dtype).name


def agent_variables(agent: Any) -> dict[str, Sequence[Any]]:
    """All weights of an agent's models, head and optimizers."""
    groups: dict[str, Sequence[Any]] = {
        "model": list(agent.model.variables),  # with the seeds of layers that draw
        "head": list(agent.policy.head.variables),
    }
    if getattr(agent, "value_model", None) is not None:
        groups["value model"] = list(agent.value_model.variables)
    for i, (optimizer, _) in enumerate(agent._trainable.groups):
        groups[f"optimizer {i}" if i else "optimizer"] = list(optimizer.variables)
    return groups


def callbacks_state(callbacks: Sequence[Any]) -> list[Any]:
    """The state of each callback: its own ``get_state``, or what a stock one of Keras carries.

    Example:
        >>> stop = keras.callbacks.EarlyStopping("episode_return", mode="max", patience=3)
        >>> stop.on_train_begin()
        >>> callbacks_state([stop])[0]["state"]["wait"]
        0
    """
    return [{"class": type(x).__name__, "state": _state_of(x)} for x in carriers(callbacks)]


def prepare_callbacks(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    """Before callbacks begin: checks that they are those of a state, and shortens their logs.

    Raises:
        ValueError: They are others.
    """
    carried = carriers(callbacks)
    here, there = [type(x).__name__ for x in carried], [x["class"] for x in states]
    if here != there:
        raise ValueError(
            f"The checkpoint was written with the callbacks {', '.join(there) or 'none'}, and here "
            f"are {', '.join(here) or 'none'}: give the same ones, in their order."
        )
    for each, told in zip(carried, states, strict=True):
        if isinstance(each, keras.callbacks.CSVLogger):
            _shorten(Path(each.filename), told["state"]["bytes"])
            each.append = True


def set_callbacks_state(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    """Gives callbacks, which have begun, the states they had."""
    for each, told in zip(carriers(callbacks), states, strict=True):
        if hasattr(each, "set_state"):
            each.set_state(_copied(told["state"]))
        elif isinstance(each, keras.callbacks.CSVLogger):
            each.keys = told["state"]["keys"]
        elif isinstance(each, keras.callbacks.History):
            _set_history_state(each, told["state"])
        else:
            for name, value in (told["state"] or {}).items():
                setattr(each, name, _copied(value))


class Numbers:
    """Lists of numbers that grow together, as an array that is not made anew every time.

    Example:
        >>> numbers = Numbers()
        >>> numbers.of([[1.0], [5.0]]).tolist(), numbers.of([[1.0, 2.0], [5.0, 6.0]]).tolist()
        ([[1.0], [5.0]], [[1.0, 2.0], [5.0, 6.0]])
    """

    def __init__(self) -> None:
        self._array = np.zeros((0, 0))
        self._count = 0

    def of(self, lists: Sequence[list[Any]]) -> np.ndarray:
        """The lists, of one length: what they were before is taken to be their beginning."""
        count, known = len(lists[0]), self._count
        new = np.asarray([values[known:] for values in lists])
        fits = count <= self._array.shape[1] and np.can_cast(new.dtype, self._array.dtype)
        if not fits or count < known or len(lists) != len(self._array):
            known, new = 0, np.asarray(lists)
            self._array = np.zeros((len(lists), 2 * count), new.dtype)
        self._array[:, known:count] = new
        self._count = count
        return self._array[:, :count]


def carriers(callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks but the progress bar, which is as the terminal is."""
    return [x for x in callbacks if not isinstance(x, keras.callbacks.ProgbarLogger)]


def _state_of(callback: Any) -> Any:
    if hasattr(callback, "get_state"):
        return _copied(callback.get_state())
    if isinstance(callback, keras.callbacks.CSVLogger):
        size = Path(callback.filename).stat().st_size  # flushed with every row
        return {"bytes": size, "keys": _copied(callback.keys)}
    if isinstance(callback, keras.callbacks.History):
        return _history_state(callback)
    for kind, names in _STOCK.items():
        if isinstance(callback, kind):
            return {name: _copied(getattr(callback, name, None)) for name in names}
    return None


def _history_state(callback: keras.callbacks.History) -> dict[str, Any]:
    """Few arrays of many numbers: those of a kind, and as many, are together."""
    lists = {"epoch": callback.epoch, **{f"logs {k}": x for k, x in callback.history.items()}}
    alike: dict[Any, list[str]] = {}
    others: dict[str, list[Any]] = {}
    for name, values in lists.items():
        if values and not isinstance(values[0], _NUMBERS):
            others[name] = _copied(values)
            continue
        ends = (type(values[0]), type(values[-1])) if values else ()
        alike.setdefault((len(values), ends, name == "epoch"), []).append(name)
    grown = _grown.setdefault(callback, {})
    arrays = [
        [names, grown.setdefault(tuple(names), Numbers()).of([lists[name] for name in names])]
        for names in alike.values()
    ]
    return {"names": list(callback.history), "arrays": arrays, "others": others}


def _set_history_state(callback: keras.callbacks.History, state: dict[str, Any]) -> None:
    lists = {
        name: values
        for names, array in state["arrays"]
        for name, values in zip(names, array.tolist(), strict=True)
    }
    lists |= {name: _copied(values) for name, values in state["others"].items()}
    callback.epoch = lists["epoch"]
    callback.history = {name: lists[f"logs {name}"] for name in state["names"]}


def _shorten(path: Path, size: int) -> None:
    """Takes away the rows that are going to be written again."""
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        warn(
            f"{str(path)!r} had {size:,} bytes at the checkpoint, and has {found:,}: rows are "
            "missing."
        )
        if found:  # half a row is none
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    elif found > size:
        os.truncate(path, size)


def _copied(value: Any) -> Any:
    """What a callback may change while it is written, and cannot where it was only read."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(x) for key, x in value.items()}
    return [_copied(x) for x in value] if isinstance(value, (list, tuple)) else value
