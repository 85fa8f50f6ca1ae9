"""Hashes of the newest checkpoint of a run, to compare the results of two runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfpg.checkpoints.serialization import pack
from tfpg.checkpoints.store import Store
from tfpg.errors import CheckpointCorruptError


def digests(folder: str | os.PathLike) -> dict[str, str]:
    """Return the sha256 of each part of the newest checkpoint.

    Equal runs have equal parts, however often they were stopped and resumed.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        Hashes by part: a group of variables (``"model"``, ``"optimizer"``, ``"target network"``),
        ``"statistics"``, ``"counts"``, ``"environments"``, ``"replay"`` or the class of a callback.

    Raises:
        CheckpointCorruptError: There is no intact checkpoint.

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
        raise CheckpointCorruptError(f"{str(folder)!r} has no checkpoint.")
    agent = dict(found.state["agent"])
    # Names of variables differ from process to process.
    parts = {name: group["values"] for name, group in agent.pop("variables").items()}
    parts["statistics"] = agent.pop("statistics")
    parts["counts"] = {**agent, "iteration": found.header["iteration"]}
    parts["environments"] = found.state["collector"]
    if "replay" in found.state:
        replay = found.state["replay"]
        parts["replay"] = {**replay, "rows": _replay_rows(store.log(), int(replay["rows"]))}
    for each in found.state["callbacks"]:
        parts[each["class"]] = each["state"]
    return {name: digest(part) for name, part in parts.items() if part is not None}


def digest(state: Any) -> str:
    """Return the sha256 of a state.

    Example:
        >>> digest({"a": 1}) == digest({"a": 1}), digest({"a": 1}) == digest({"a": 2})
        (True, False)
    """
    found = hashlib.sha256()
    for part in pack(state):
        found.update(part)
    return found.hexdigest()


def _replay_rows(records: Iterable[dict[str, Any]], rows: int) -> list[str]:
    """Return a hash of the rows of each ring, whichever records they were written in."""
    rings: list[dict[int, bytes]] = []
    for record in records:
        seen = record["observations"]
        columns = list(seen.values()) if isinstance(seen, dict) else [seen]
        columns += [record[k] for k in sorted({*record} - {"observations", "first", "written"})]
        first, written = np.asarray(record["first"]), np.asarray(record["written"])
        rings = rings or [{} for _ in first]
        row = 0
        for ring, start, stop in zip(rings, first.tolist(), (written + 1).tolist(), strict=True):
            for position in range(start, stop):
                ring[position] = b"".join(column[row].tobytes() for column in columns)
                row += 1
    newest = [[ring[position] for position in sorted(ring)[-rows:]] for ring in rings]
    return [hashlib.sha256(b"".join(ring)).hexdigest() for ring in newest]
