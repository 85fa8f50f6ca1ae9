"""State as bytes: nested dicts and lists of plain values and arrays, and nothing that can run.

A record is its length and that of its arrays (8 bytes each, little-endian), JSON, and the arrays'
bytes. In the JSON an array is ``{"__array__": [dtype, shape, offset]}``. Only numbers and booleans
are arrays. What is read is checked against the bytes there are before anything is allocated.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

_HEAD = struct.Struct("<QQ")
_ARRAY = "__array__"
_ALIGNMENT = 64
_LARGE = 1 << 16  # bytes, from which on an array is not copied
_DEPTH = 32
_DTYPE = re.compile(r"[<>|][biuf]\d{1,2}")


def pack(state: Any) -> list[Any]:
    """A record of a state, as buffers to write one after another.

    Args:
        state: Dicts with keys of text, lists, tuples (read back as lists), text, numbers, booleans,
            None, and arrays of numbers or booleans.

    Raises:
        TypeError: It holds something else, or is nested too deeply.

    Example:
        >>> data = b"".join(pack({"weights": np.ones((2, 3)), "step": 7}))
        >>> state, end = unpack(data)
        >>> state["weights"].shape, state["step"], end == len(data)
        ((2, 3), 7, True)
    """
    arrays: list[Any] = []
    size = 0

    def plain(x: Any) -> Any:
        """What JSON has no form for: arrays are put aside."""
        nonlocal size
        if isinstance(x, np.generic) and x.dtype.kind in "biuf":
            return float(x) if x.dtype.kind == "f" else x.item()
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "biuf":
            raise TypeError(
                f"The state at {_path_to(x, state)} is a {type(x).__name__}, and numbers, text, "
                "arrays, lists and dicts of these are what is saved."
            )
        told = {_ARRAY: [x.dtype.str, x.shape, size]}
        padding = -x.nbytes % _ALIGNMENT
        arrays.extend([x.tobytes() if x.nbytes < _LARGE else _bytes_of(x), bytes(padding)])
        size += x.nbytes + padding
        return told

    _check(state, state)
    text = json.dumps(state, default=plain).encode()
    text += b" " * (-(_HEAD.size + len(text)) % _ALIGNMENT)
    return [_HEAD.pack(len(text), size), text, *arrays]


def _check(x: Any, state: Any, depth: int = 0) -> None:
    """Raises where JSON would read back something else, or not at all."""
    if isinstance(x, dict):
        if not all(isinstance(key, str) for key in x) or _ARRAY in x:
            raise TypeError(f"The state at {_path_to(x, state)} has keys that are not text.")
        x = x.values()
    elif not isinstance(x, (list, tuple)):
        return
    if depth >= _DEPTH:
        raise TypeError(f"The state at {_path_to(x, state)} is nested more than {_DEPTH} deep.")
    for inner in x:
        _check(inner, state, depth + 1)


def _path_to(wanted: Any, x: Any, path: str = "", depth: int = 0) -> str | None:
    """Where something is in a state: keys and numbers."""
    if x is wanted:
        return path or "/"
    named = (
        x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, (list, tuple)) else ()
    )
    paths = (_path_to(wanted, inner, f"{path}/{key}", depth + 1) for key, inner in named)
    return next(filter(None, paths), None) if depth <= _DEPTH else None


def _bytes_of(x: np.ndarray) -> memoryview:
    """The numbers of an array, not copied where they lie one after another."""
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8).data


def unpack(data: Any, start: int = 0) -> tuple[Any, int]:
    """The state that begins at an offset of the data, and where it ends.

    Arrays are views of the data.

    Raises:
        ValueError: It is not a whole record.
    """
    view = memoryview(data)
    try:
        length, size = _HEAD.unpack_from(view, start)
        first = start + _HEAD.size + length
        if first + size > len(view):
            raise ValueError(f"it ends after {len(view):,} of {first + size:,} bytes")
        return _restored(
            json.loads(bytes(view[start + _HEAD.size : first])), view[first:][:size], 0
        ), (first + size)
    except (struct.error, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(f"Not a whole record: {error}") from None


def _restored(x: Any, arrays: memoryview, depth: int) -> Any:
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(x, list):
        return [_restored(value, arrays, depth + 1) for value in x]
    if not isinstance(x, dict):
        return x
    if _ARRAY not in x:
        return {key: _restored(value, arrays, depth + 1) for key, value in x.items()}
    name, shape, offset = x[_ARRAY]
    # NumPy's own names of dtypes are a language, with objects and warnings in it.
    if not _DTYPE.fullmatch(str(name)) or not isinstance(offset, int) or offset < 0:
        raise ValueError(f"it holds an array of {str(name)[:20]!r} at {str(offset)[:20]}")
    dtype, count = np.dtype(name), _count(shape)
    if offset + count * dtype.itemsize > len(arrays):
        raise ValueError(f"an array of {count:,} numbers is larger than the record")
    return np.frombuffer(arrays, dtype, count, offset).reshape(shape)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        if not isinstance(n, int) or n < 0:
            raise ValueError(f"it holds an array of shape {shape}")
        count *= n
    return count
