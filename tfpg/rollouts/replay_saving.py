"""A replay as state: what it is, and its rows, of which those since the last time suffice.

Rows are written in rings and hardly change: the last step of each may turn out to be truncated, and
the row after it becomes the next step's. So what was written since, and those two, are all there is
to save, and a replay is what its records make of it one after another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.rollouts.replay_storage import COLUMNS, as_numpy
from tfpg.rollouts.sum_tree import SumTree

if TYPE_CHECKING:
    from tfpg.rollouts.replay import ReplayBuffer


def told(replay: ReplayBuffer) -> dict[str, Any]:
    """Everything but the rows."""
    state: dict[str, Any] = {
        "n_step": replay.n_step,
        "rows": replay.rows,
        "written": replay._written.copy(),
        "going": replay._going.copy(),
        "highest": replay._highest,
    }
    if replay.tree is not None:
        state["priorities"] = replay.tree.get(replay._used())
    return state


def rows_since(replay: ReplayBuffer, written: np.ndarray | None) -> dict[str, Any]:
    """The rows that are there and were not, or not as they are, when so many were written.

    Args:
        replay: Whose.
        written: ``[N]``, of each ring. None: all rows.
    """
    oldest = np.maximum(replay._written + 1 - replay.rows, 0)
    first = oldest if written is None else np.maximum(written - 1, oldest)
    used = replay._between(first, replay._written + 1)
    record: dict[str, Any] = {name: getattr(replay, f"_{name}")[used] for name in COLUMNS}
    record["observations"] = map_arrays(lambda x: as_numpy(x, used), replay._observations)
    return {**record, "first": first, "written": replay._written.copy()}


def restore(replay: ReplayBuffer, state: dict[str, Any], records: Iterable[Any]) -> None:
    """Makes a replay what it was.

    Args:
        replay: Made with the same arguments.
        state: See `told`.
        records: See `rows_since`: the first of all rows, or as many as hold all.

    Raises:
        ValueError: The state is of another replay.
    """
    written = np.asarray(state["written"], np.int64)
    if len(written) != replay.num_envs:
        raise ValueError(
            f"The state is of {len(written)} environments, and this replay of {replay.num_envs}."
        )
    if state["rows"] != replay.rows:
        raise ValueError(
            f"The state has {state['rows']} rows of each environment, and {replay.rows} were "
            "expected: it is of a replay of another capacity."
        )
    kind = state["n_step"], "priorities" in state
    own = replay.n_step, replay.tree is not None
    if kind != own:
        raise ValueError(
            f"The state has n_step={kind[0]} and prioritized={kind[1]}, and this replay "
            f"n_step={own[0]} and prioritized={own[1]}."
        )
    replay._real[:] = False
    for record in records:
        rows = replay._between(np.asarray(record["first"]), np.asarray(record["written"]) + 1)

        def put(x: Any, values: np.ndarray, rows: np.ndarray = rows) -> None:
            x[rows] = values

        for name in COLUMNS:
            put(getattr(replay, f"_{name}"), record[name])
        map_arrays(put, replay._observations, record["observations"])
    replay._written, replay._going = written.copy(), np.array(state["going"], bool)
    used = replay._used()
    unused = np.ones(len(replay._real), bool)
    unused[used] = False
    replay._real[unused] = False
    replay._size, replay._highest = int(replay._real.sum()), float(state["highest"])
    if replay.tree is not None:
        replay.tree = SumTree(replay.rows * replay.num_envs)
        replay.tree.set(used, state["priorities"])
