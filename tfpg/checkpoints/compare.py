"""Whether two trainings have come to the same: hashes of what their newest checkpoints hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfpg.checkpoints.serialization import pack
from tfpg.checkpoints.store import Store
from tfpg.errors import CheckpointCorruptError


def digests(folder: str | os.PathLike) -> dict[str, str]:
    """The sha256 of each part of the newest checkpoint, whichever way it was come to.

    Args:
        folder: Of the checkpoints.

    Returns:
        By part: a group of variables (``"model"``, ``"optimizer"``, ``"target network"``),
        ``"replay"``, ``"counts"``, ``"environments"`` or a callback's class.

    Raises:
        CheckpointCorruptError: There is no whole checkpoint.

    Example:
        >>> import tempfile, tfpg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1", seed=0))
        ...     _ = agent.fit("CartPole-v1", 1, seed=1, verbose=0, checkpoints=folder)
        ...     found = digests(folder)
        >>> sorted(found)
        ['History', 'counts', 'environments', 'head', 'model', 'optimizer', 'statistics']
    """
    store = Store(folder)
    found = store.load()
    if found is None:
        raise CheckpointCorruptError(f"{str(folder)!r} holds no checkpoint.")
    agent = dict(found.state["agent"])
    variables = agent.pop("variables")
    parts: dict[str, Any] = dict(_groups(variables))
    if "replay" in agent:
        replay = agent.pop("replay")
        parts["replay"] = {**replay, "rows": _merged(store.log(), int(replay["rows"]))}
    parts["statistics"] = agent.pop("statistics")
    parts["counts"] = {**agent, "iteration": found.manifest["iteration"]}
    parts["environments"] = found.state["collector"]
    for each in found.state["callbacks"]:
        parts[each["class"]] = each["state"]
    return {name: digest(part) for name, part in parts.items() if part is not None}


def digest(state: Any) -> str:
    """The sha256 of a state.

    Example:
        >>> digest({"a": 1}) == digest({"a": 1}), digest({"a": 1}) == digest({"a": 2})
        (True, False)
    """
    found = hashlib.sha256()
    for part in pack(state):
        found.update(part)
    return found.hexdigest()


def _groups(variables: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    taken = dict.fromkeys(variables["values"], 0)
    for name, group in json.loads(variables["groups"]).items():
        values = []
        for _, dtype, shape in group:
            first = taken[dtype]
            taken[dtype] = first + int(np.prod(shape))
            values.append(np.asarray(variables["values"][dtype][first : taken[dtype]]))
        yield name, values


def _merged(records: Iterable[Any], rows: int) -> list[Any]:
    """The rows of a replay that are there, of each ring, however many records brought them."""
    rings: dict[int, dict[int, list[Any]]] = {}
    for record in records:
        first, written = np.asarray(record["first"]), np.asarray(record["written"])
        start = 0
        for n, (a, b) in enumerate(zip(first, written, strict=True)):
            ring = rings.setdefault(n, {})
            for i, position in enumerate(range(int(a), int(b) + 1)):
                ring[position] = [start + i, record]
            start += int(b) + 1 - int(a)
    return [[_row(*ring[position]) for position in sorted(ring)[-rows:]] for ring in rings.values()]


def _row(index: int, record: dict[str, Any]) -> dict[str, Any]:
    seen = record["observations"]
    named = seen if isinstance(seen, dict) else {"": seen}
    row = {f"observation {name}": x[index] for name, x in named.items()}
    others = {*record} - {"observations", "first", "written"}
    return row | {name: record[name][index] for name in sorted(others)}
