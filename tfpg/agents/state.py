"""The variables of models and optimizers as plain arrays, to save and to restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfpg.core.backend import keras, tf


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
