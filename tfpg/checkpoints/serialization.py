"""State as bytes: nested dicts and lists of plain values and arrays, and nothing executable.

A record is the sizes of its two parts (8 bytes each, little-endian), JSON, and the bytes of the
arrays. In the JSON an array is ``{"__array__": [dtype, shape, offset, size]}``. Large arrays of
bytes, such as images, are compressed: their size is smaller than their shape. Only numbers and
booleans can be arrays. Reading checks every size against the bytes that exist before it allocates
anything.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_SIZES = struct.Struct("<QQ")
_ARRAY = "__array__"
_ALIGNMENT = 64
_MAX_DEPTH = 32
_COMPRESSED = 2**16  # bytes of the smallest array that is compressed
_EXPANSION = 1032  # the most that zlib can compress
_DTYPE = re.compile(r"[<>|][biuf]\d{1,2}")


def pack(state: Any) -> list[Any]:
    """Return the record of a state as buffers to write one after another.

    Args:
        state: Dicts with string keys, lists, tuples (which come back as lists), strings, numbers,
            booleans, None, and arrays of numbers or booleans.

    Raises:
        TypeError: The state holds something else, or is nested too deeply.

    Example:
        >>> data = bytearray().join(pack({"weights": np.ones((2, 3)), "step": 7}))
        >>> state = unpack(data)
        >>> state["weights"].shape, state["step"]
        ((2, 3), 7)
    """
    arrays: list[Any] = []
    size = 0

    def encode(x: Any, path: str, depth: int) -> Any:
        nonlocal size
        where = f"The state at {path or '/'}"
        if depth > _MAX_DEPTH:
            raise TypeError(f"{where} is nested more than {_MAX_DEPTH} levels deep.")
        if x is None or isinstance(x, (bool, int, float, str)):
            return x
        if isinstance(x, dict):
            if _ARRAY in x or not all(isinstance(key, str) for key in x):
                raise TypeError(f"{where} has keys that are not strings, or is named {_ARRAY!r}.")
            return {key: encode(value, f"{path}/{key}", depth + 1) for key, value in x.items()}
        if isinstance(x, (list, tuple)):
            return [encode(value, f"{path}/{i}", depth + 1) for i, value in enumerate(x)]
        if getattr(x, "dtype", None) is None or x.dtype.kind not in "biuf":
            raise TypeError(
                f"{where} is a {type(x).__name__}. Only numbers, strings, None, arrays of numbers, "
                "and lists and dicts of these can be saved."
            )
        if isinstance(x, np.generic):
            return float(x) if x.dtype.kind == "f" else x.item()
        data: Any = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
        if x.dtype == np.uint8 and len(data) >= _COMPRESSED:
            data = min(zlib.compress(data, 1), data, key=len)
        padding, offset = -len(data) % _ALIGNMENT, size
        arrays.extend([data, bytes(padding)])
        size += len(data) + padding
        return {_ARRAY: [x.dtype.str, x.shape, offset, len(data)]}

    text = json.dumps(encode(state, "", 0)).encode()
    text += b" " * (-(_SIZES.size + len(text)) % _ALIGNMENT)
    return [_SIZES.pack(len(text), size), text, *arrays]


def unpack(data: Any) -> Any:
    """Return the state of a record.

    Arrays are views of the data: they can be written to if the data can, as a ``bytearray``.

    Raises:
        ValueError: The data is not one complete record.
    """
    view = memoryview(data)
    try:
        length, size = _SIZES.unpack_from(view)
        first = _SIZES.size + length
        if first + size != len(view):
            raise ValueError(f"expected {first + size:,} bytes, found {len(view):,}")
        return _decode(json.loads(bytes(view[_SIZES.size : first])), view[first:], 0)
    except (
        *(struct.error, zlib.error, ValueError, TypeError),
        *(KeyError, RecursionError, OverflowError),
    ) as error:
        raise ValueError(f"Not a complete record: {error}") from None


def _decode(x: Any, arrays: memoryview, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(x, list):
        return [_decode(value, arrays, depth + 1) for value in x]
    if not isinstance(x, dict):
        return x
    if _ARRAY not in x:
        return {key: _decode(value, arrays, depth + 1) for key, value in x.items()}
    name, shape, offset, stored = x[_ARRAY]
    # NumPy's own dtype strings are a language that includes objects.
    if not _DTYPE.fullmatch(str(name)) or not isinstance(offset, int) or offset < 0:
        raise ValueError(f"it holds an array of {str(name)[:20]!r} at {str(offset)[:20]}")
    dtype, count = np.dtype(name), _count(shape)
    data: Any = arrays[offset : offset + stored]
    size = count * dtype.itemsize
    if len(data) != stored or not stored <= size <= stored * _EXPANSION:
        raise ValueError(f"an array of {count:,} numbers is larger than the record")
    if stored < size:
        stream = zlib.decompressobj()
        data = bytearray(stream.decompress(data, size + 1))
        if not stream.eof or len(data) != size:
            raise ValueError(f"an array of {count:,} numbers is incomplete")
    return np.frombuffer(data, dtype, count).reshape(shape)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        if not isinstance(n, int) or n < 0:
            raise ValueError(f"it holds an array of shape {shape}")
        count *= n
    return count
