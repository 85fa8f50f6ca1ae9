"""What callbacks carry from one epoch to the next, and cannot say: found by how they look."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpg.core.backend import keras, tf

# Of every callback.
_USUAL = {*vars(keras.callbacks.Callback()), "params"}

# Up to which attributes of a callback are looked at: bytes of an array, things, characters.
_SMALL, _FEW, _LOOK, _DEEP = 1 << 16, 100, 1000, 3


class Forgetful:
    """What has changed in callbacks that have no ``get_state``, and so is in no checkpoint.

    Args:
        callbacks: As they begin.
    """

    def __init__(self, callbacks: Sequence[Any]):
        self._before = [_looks(x) for x in callbacks]

    def changed(self, callbacks: Sequence[Any]) -> dict[int, list[str]]:
        """The attributes, by the places of the callbacks."""
        found: dict[int, list[str]] = {}
        for i, (each, before) in enumerate(zip(callbacks, self._before, strict=True)):
            now = _looks(each) if before is not None else None
            if now:
                names = [name for name in now if now[name] != (before or {}).get(name)]
                found |= {i: names} if names else {}
        return found


def _looks(callback: Any) -> dict[str, str] | None:
    """How the attributes of a callback look; None where its state is kept, or it is no user's."""
    if hasattr(callback, "get_state"):
        return None
    if type(callback).__module__.split(".")[0] in ("keras", "tfpg"):
        return None
    found: dict[str, str] = {}
    for name, x in getattr(callback, "__dict__", {}).items():
        if name in _USUAL:
            continue
        look = _look(x)
        if look is not None:
            found[name] = look
    return found


def _look(x: Any, depth: int = 0) -> str | None:
    """How a value looks; None of what is not looked at."""
    if isinstance(x, (bool, int, float, str, np.generic, type(None))):
        return repr(x)[:_LOOK]
    if isinstance(x, np.random.Generator):
        return repr(x.bit_generator.state)
    if isinstance(x, (keras.Variable, tf.Variable)) and x.shape.num_elements() <= _FEW:
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf" and x.nbytes <= _SMALL:
        return f"{x.shape} {zlib.crc32(x.tobytes())}"
    if isinstance(x, keras.callbacks.Callback):
        inner = {name: y for name, y in vars(x).items() if name not in _USUAL}
        return _look(inner, depth)
    if isinstance(x, (list, tuple, dict, set, deque)):
        few = list(x.values() if isinstance(x, dict) else x) if len(x) <= _FEW else []
        looks = [_look(y, depth + 1) for y in few] if depth < _DEEP else []
        return f"{len(x)} {looks}"[:_LOOK]
    return None
