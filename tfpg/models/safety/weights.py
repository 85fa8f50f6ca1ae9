"""The weights of a model file: HDF5 with plain numbers in it, and nothing else that HDF5 can do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError

_MAX_OBJECTS = 200_000
_MAX_DEPTH = 64
_NUMBERS = ("?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8")


def copy_weights(path: Path, to: Path, file: str) -> int:
    """Writes the groups and arrays of a stranger's HDF5 file into a new one.

    No link may lead elsewhere, and no array be kept in another file, put together of others,
    filtered, or larger than the bytes that are there. Attributes are not read: damaged ones make
    HDF5 search for ever.

    Args:
        path: Of the HDF5 file.
        to: Of the new one.
        file: The model file that it is of, for the error.

    Returns:
        The bytes of all arrays.

    Raises:
        CheckpointCorruptError: HDF5 cannot read it.
        UnsafeCheckpointError: It holds something else.
    """
    import h5py

    size = path.stat().st_size
    try:
        with h5py.File(path, "r") as opened, h5py.File(to, "w") as copied:
            items = list(_items(h5py.h5g.open(opened.id, b"/"), file))
            total = sum(needed for _, _, needed in items)
            if total > size:
                raise _refusal(file, "/")(f"has arrays of {total:,} bytes, in a file of {size:,}")
            for where, item, _ in items:
                if isinstance(item, h5py.h5g.GroupID):
                    copied.require_group(where)
                    continue
                values = np.empty(item.shape, item.dtype)
                item.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
                array = copied.create_dataset(where, data=values)
                if values.dtype.kind == "V":  # as Keras marks them
                    array.attrs["dtype"] = "bfloat16"
    except (UnsafeCheckpointError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointCorruptError(
            f"{file!r} is broken: its weights are not HDF5 that can be read ({reason}). Save the "
            "model again."
        ) from error
    return total


def _items(root: Any, file: str) -> Iterator[tuple[str, Any, int]]:
    """The groups and arrays of an HDF5 file: where, what, and of how many bytes."""
    import h5py

    seen: set[int] = set()
    left = [(root, "/", 0)]
    while left:
        item, where, depth = left.pop()
        refuse = _refusal(file, where)
        address = h5py.h5o.get_info(item).addr
        if address in seen or len(seen) > _MAX_OBJECTS or depth > _MAX_DEPTH:
            raise refuse("is there twice, or one of too many")
        seen.add(address)
        if isinstance(item, h5py.h5d.DatasetID):
            yield where, item, _bytes_of(item, refuse)
        elif isinstance(item, h5py.h5g.GroupID):
            yield where, item, 0
            for name in list(item):
                inner = f"{where.rstrip('/')}/{name.decode('utf-8')}"
                if item.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                    raise _refusal(file, inner)("is a link to somewhere else")
                left.append((h5py.h5o.open(item, name), inner, depth + 1))
        else:
            raise refuse("is neither a group nor an array")


def _refusal(file: str, where: str) -> Any:
    return lambda why: UnsafeCheckpointError(
        f"{file!r} is refused: in its weights, {where[:200]!r} {why}. Save the model again with "
        "Keras."
    )


def _bytes_of(array: Any, refuse: Any) -> int:
    import h5py

    # Before its shape is asked for, which a virtual array looks up in other files.
    how = array.get_create_plist()
    if how.get_layout() == h5py.h5d.VIRTUAL:
        raise refuse("is put together of arrays in other files")
    if how.get_external_count():
        raise refuse(f"is kept in another file, {how.get_external(0)[0][:200]!r}")
    if how.get_nfilters() or how.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT):
        raise refuse("is compressed or in chunks, which Keras does not do")
    kind = array.get_type()
    bfloat16 = kind.get_class() == h5py.h5t.OPAQUE and kind.get_size() == 2
    if not bfloat16 and not any(kind.equal(h5py.h5t.py_create(np.dtype(x))) for x in _NUMBERS):
        raise refuse("is not of numbers")
    needed, stored = math.prod(array.shape) * kind.get_size(), array.get_storage_size()
    if needed > stored:
        raise refuse(f"declares {needed:,} bytes and holds {stored:,}")
    return needed
