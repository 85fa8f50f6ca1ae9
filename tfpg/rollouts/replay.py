"""A ring of steps for every environment, each observation and each frame of it stored once.

Row t of a ring holds what was observed, what was done and what came of it; the observation that
the step led to is that of row t + 1. The observation an episode ended with has a row of its own,
which is no step and never sampled. So n-step returns are made when transitions are sampled, and
nothing is stored twice.

Of observations that are stacks of k frames, only the newest frame is stored; an episode's first
stack takes k rows. A stack is then k successive rows, whatever they belong to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.core.memory import check_memory
from tfpg.ops.returns import n_step_transitions
from tfpg.rollouts.replay_storage import (
    COLUMNS,
    as_numpy,
    bytes_needed,
    make_rings,
    row_of,
    stacked,
)
from tfpg.rollouts.sum_tree import SumTree
from tfpg.rollouts.trajectory import Trajectory

# Added to the size of an error, so that no transition is forgotten.
_LEAST_PRIORITY = 1e-6


class Transitions(NamedTuple):
    """Steps to learn from, sampled: ``M`` of them.

    Example:
        >>> transitions = Transitions(*np.zeros((7, 5)))
        >>> len(transitions.rewards)
        5
    """

    observations: Any  # [M, ...]  as the environment gave them
    actions: np.ndarray  # [M]  int32
    rewards: np.ndarray  # [M]  discounted sum of up to n, float32
    discounts: np.ndarray  # [M]  of what follows, 0 where it terminated, float32
    next_observations: Any  # [M, ...]  n steps later, or what the episode ended with
    weights: np.ndarray  # [M]  of the losses, 1 unless prioritized, float32
    indices: np.ndarray  # [M]  to give the priorities back to


class ReplayBuffer:
    """The last steps of N environments, sampled uniformly or by their errors.

    Args:
        observation_space: Of one environment.
        capacity: Rows in all, shared out among the environments. Every step takes one, every end
            of an episode one more, and of stacked frames every start as many as are stacked.
        num_envs: N, the columns of the trajectories.
        n_step: Rewards of a transition.
        gamma: Discount factor, in [0, 1].
        frame_stack: How many frames an observation stacks along its last axis. None: it is stored
            as it is.
        prioritized: Sample by errors; else uniformly.
        alpha: How much errors count, from 0 (not at all) to 1.
        device: Of TensorFlow, on which images are kept and drawn. None: the machine's memory.

    Attributes:
        nbytes: Memory of it when full.

    Raises:
        ValueError: ``capacity`` holds too few rows of each environment.
        MemoryError: It needs more memory than there is; nothing was taken.

    Source:
        Lin, "Self-improving reactive agents based on reinforcement learning, planning and
        teaching", 1992, https://doi.org/10.1007/BF00992699; prioritized: Schaul et al., 2016,
        https://arxiv.org/abs/1511.05952.

    Example:
        >>> import tfpg
        >>> from tfpg.rollouts.collector import Collector
        >>> from tfpg.envs import open_vec
        >>> with open_vec("CartPole-v1", num_envs=3) as envs:
        ...     replay = ReplayBuffer(envs.single_observation_space, 3000, num_envs=3)
        ...     policy = tfpg.Policy(tfpg.networks.mlp(envs), envs)
        ...     replay.add(Collector(envs, seed=0).collect_steps(policy, 50))
        >>> transitions = replay.sample(np.random.default_rng(0), 32)
        >>> transitions.observations.shape, transitions.rewards.shape
        ((32, 4), (32,))
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        capacity: int,
        num_envs: int = 1,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        frame_stack: int | None = None,
        prioritized: bool = False,
        alpha: float = 0.6,
        device: str | None = None,
    ):
        self.num_envs = num_envs
        self.n_step = n_step
        self.gamma = gamma
        self.stack = frame_stack or 1
        self.alpha = alpha
        self.rows = capacity // num_envs
        least = 2 * self.stack + self.n_step + 1  # a step that begins an episode can be added
        if self.rows < least:
            raise ValueError(
                f"A replay of capacity {capacity} has {self.rows} rows for each of {num_envs} "
                f"environments, and needs at least {least}: use a capacity of {least * num_envs} "
                "or more."
            )
        total = self.rows * num_envs
        self.nbytes, images = bytes_needed(observation_space, total, frame_stack, prioritized)
        here = self.nbytes if device is None else self.nbytes - images
        check_memory(here, f"A replay of {total:,} rows", "use a smaller capacity")
        self._observations = make_rings(row_of(observation_space, self.stack), total, device)
        self._actions = np.zeros(total, np.int32)
        self._rewards = np.zeros(total, np.float32)
        self._real, self._terminated, self._truncated = np.zeros((3, total), bool)
        self.tree = SumTree(total) if prioritized else None
        self._highest = 1.0
        # Rows written to each ring, ever. The one after them is written too, with the observation
        # after the last step: the next step's, or the one an episode ended with.
        self._written = np.zeros(num_envs, np.int64)
        self._going = np.zeros(num_envs, bool)
        self._size = 0

    def __len__(self) -> int:
        """Steps that are stored."""
        return self._size

    @property
    def ready(self) -> bool:
        """Whether there is a whole transition to sample."""
        return bool(self._real[self._between(*self._window())].any())

    def add(self, data: Trajectory) -> None:
        """Stores the steps of a trajectory, a column an environment.

        It goes on where the last one stopped, unless `cut` came between, or its first row is none.

        Raises:
            ValueError: It is longer than the ring.
        """
        real = data.mask > 0
        self.cut(~real[0])  # the episode broke off
        some, columns = real.any(axis=0), np.arange(self.num_envs)
        first = real.argmax(axis=0)
        last = len(real) - 1 - real[::-1].argmax(axis=0)
        times = np.arange(len(real))[:, None]
        # Between the first and the last step; what is around them pads, or is stored already.
        kept = (times >= first) & (times <= last) & some
        before = np.concatenate([np.zeros_like(real[:1]), real[:-1]])
        before[first, columns] = self._going
        begins = real & ~before
        # The row after the last step stays where an episode ended with it.
        start = self._written + (some & ~self._going & (self._written > 0))
        positions = start + np.cumsum(kept + begins * (self.stack - 1), axis=0) - 1
        written = np.where(some, positions[last, columns] + 1, self._written)
        if (written - self._written).max() > self.rows - self.stack - self.n_step:
            raise ValueError(
                f"{len(real)} steps of each environment are more than the replay's {self.rows} "
                "rows of each can take at once: use a larger capacity."
            )
        window = self._window()
        seen = map_arrays(lambda x: x[:-1], data.observations)
        rows = self._rows(positions, columns)[kept]
        self._put(rows, seen, kept, real[kept])
        for ago in range(1, self.stack):
            self._put(self._rows(positions - ago, columns)[begins], seen, begins, False, ago)
        self._actions[rows], self._rewards[rows] = data.actions[kept], data.rewards[kept]
        self._terminated[rows] = data.terminated[kept]
        self._truncated[rows] = data.truncated[kept]
        ends = self._rows(written, columns)[some]
        self._put(ends, data.observations, (last[some] + 1, columns[some]), False)
        self._written = written
        ended = (data.terminated | data.truncated)[last, columns]
        self._going = np.where(some, ~ended, self._going)
        if self.tree is not None:
            self._follow(*window)

    def cut(self, which: np.ndarray | bool = True) -> None:
        """Says who begins anew, ``[N]``: episodes that were going on there are truncated."""
        rows = self._rows(self._written - 1, np.arange(self.num_envs))
        self._truncated[rows[self._going & which]] = True
        self._going = self._going & ~np.asarray(which)

    def sample(
        self, rng: np.random.Generator, count: int, batch_size: int | None = None, beta: float = 1.0
    ) -> Transitions:
        """Draws transitions, with replacement.

        Args:
            rng: Of the draw.
            count: M.
            batch_size: How many of them, one after another, are a batch, within which the largest
                weight of prioritized transitions is 1. None: all.
            beta: How far the weights make up for the priorities, from 0 to 1.

        Raises:
            ValueError: There is no whole transition yet.
        """
        rows = self._draw(rng, count, batch_size or count)
        weights = np.ones(count, np.float32)
        if self.tree is not None:
            rarity = self.tree.get(rows).reshape(-1, batch_size or count) ** -beta
            weights = (rarity / rarity.max(axis=1, keepdims=True)).astype(np.float32).ravel()
        after = self._later(rows, np.arange(self.n_step)[:, None])
        rewards, discounts, lengths = n_step_transitions(
            self._rewards[after], self.gamma, self._terminated[after], self._truncated[after]
        )
        return Transitions(
            self.observations(rows),
            self._actions[rows],
            rewards.astype(np.float32),
            discounts.astype(np.float32),
            self.observations(self._later(rows, lengths)),
            weights,
            rows,
        )

    def observations(self, rows: np.ndarray) -> Any:
        """The observations ``[M, ...]`` of rows ``[M]``, stacked."""
        if self.stack == 1:
            # A fancy index takes ten times as long of rows of a few numbers.
            return map_arrays(lambda x: x.take(rows, axis=0), self._observations)
        frames = self._later(rows[:, None], np.arange(1 - self.stack, 1))
        return map_arrays(lambda x: stacked(x, frames), self._observations)

    def update_priorities(self, indices: np.ndarray, errors: np.ndarray) -> None:
        """Gives transitions ``[M]`` the priorities of their errors ``[M]``, of either sign."""
        assert self.tree is not None
        priorities = np.abs(errors).astype(np.float64) + _LEAST_PRIORITY
        self._highest = max(self._highest, float(priorities.max()))
        there = self.tree.get(indices) > 0  # they may have been written over since
        self.tree.set(indices[there], priorities[there] ** self.alpha)

    @property
    def written(self) -> np.ndarray:
        """Rows written to each ring so far, ``[N]``."""
        return self._written.copy()

    def get_state(self) -> dict[str, Any]:
        """Return everything except the rows, which `rows_since` returns."""
        state: dict[str, Any] = {
            "n_step": self.n_step,
            "rows": self.rows,
            "written": self._written.copy(),
            "going": self._going.copy(),
            "highest": self._highest,
        }
        if self.tree is not None:
            state["priorities"] = self.tree.get(self._used())
        return state

    def rows_since(self, written: np.ndarray | None = None) -> dict[str, Any]:
        """Return the rows that were added or changed since ``written`` was the value of `written`.

        Rows hardly change once they are written: the last step of each ring may turn out to be
        truncated, and the row after it becomes the next step's. So those two are returned again.

        Args:
            written: ``[N]``, an earlier value of `written`. None: return all rows.

        Returns:
            A record of arrays for `set_state`.
        """
        oldest = np.maximum(self._written + 1 - self.rows, 0)
        first = oldest if written is None else np.maximum(written - 1, oldest)
        used = self._between(first, self._written + 1)
        record: dict[str, Any] = {name: getattr(self, f"_{name}")[used] for name in COLUMNS}
        record["observations"] = map_arrays(lambda x: as_numpy(x, used), self._observations)
        return {**record, "first": first, "written": self._written.copy()}

    def set_state(self, state: dict[str, Any], records: Iterable[dict[str, Any]]) -> None:
        """Restore a buffer that was made with the same arguments.

        Args:
            state: From `get_state`.
            records: From `rows_since`, in order: they must cover all rows of the state.

        Raises:
            ValueError: The state belongs to a buffer made with other arguments.
        """
        written = np.asarray(state["written"], np.int64)
        if len(written) != self.num_envs:
            raise ValueError(
                f"The state is of {len(written)} environments, and this replay of {self.num_envs}."
            )
        if state["rows"] != self.rows:
            raise ValueError(
                f"The state has {state['rows']} rows for each environment, and {self.rows} were "
                "expected: it is of a replay of another capacity."
            )
        kind, own = (state["n_step"], "priorities" in state), (self.n_step, self.tree is not None)
        if kind != own:
            raise ValueError(
                f"The state has n_step={kind[0]} and prioritized={kind[1]}, and this replay "
                f"n_step={own[0]} and prioritized={own[1]}."
            )
        self._real[:] = False
        for record in records:
            rows = self._between(np.asarray(record["first"]), np.asarray(record["written"]) + 1)

            def put(x: Any, values: np.ndarray, rows: np.ndarray = rows) -> None:
                x[rows] = values

            for name in COLUMNS:
                put(getattr(self, f"_{name}"), record[name])
            map_arrays(put, self._observations, record["observations"])
        self._written, self._going = written.copy(), np.array(state["going"], bool)
        used = self._used()
        unused = np.ones(len(self._real), bool)
        unused[used] = False
        self._real[unused] = False
        self._size, self._highest = int(self._real.sum()), float(state["highest"])
        if self.tree is not None:
            self.tree = SumTree(self.rows * self.num_envs)
            self.tree.set(used, state["priorities"])

    def _rows(self, positions: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Where a position of a column's ring is stored."""
        return columns * self.rows + positions % self.rows

    def _later(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The rows so many steps later in the same rings."""
        place = rows % self.rows
        return rows - place + (place + steps) % self.rows

    def _put(
        self, rows: np.ndarray, observations: Any, which: Any, real: Any, ago: int = 0
    ) -> None:
        """Writes observations, or the frames in them from so many steps ago."""

        def put(ring: Any, x: np.ndarray) -> None:
            ring[rows] = x[which] if self.stack == 1 else x[..., -1 - ago][which]

        map_arrays(put, self._observations, observations)
        self._size += int(np.sum(real)) - int(np.sum(self._real[rows]))
        self._real[rows] = real

    def _window(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each ring the first position that can be sampled, and the one after the last."""
        oldest = np.maximum(self._written + 1 - self.rows, 0) + self.stack - 1
        return oldest, np.maximum(self._written + 1 - self.n_step, oldest)

    def _draw(self, rng: np.random.Generator, count: int, batch_size: int) -> np.ndarray:
        """Rows ``[count]`` of steps whose transitions are whole."""
        if self.tree is not None and self.tree.total > 0:
            strata = np.arange(count) % batch_size + rng.random(count)
            return self.tree.find(strata * (self.tree.total / batch_size))
        first, stop = self._window()
        ends = np.cumsum(stop - first)
        found = np.zeros(0, np.int64)
        # A row in twenty or so is no step; a buffer that holds few steps needs more draws.
        for _ in range(1000 if self.tree is None and ends[-1] else 0):
            drawn = rng.integers(ends[-1], size=count + count // 8 + 8)
            column = np.searchsorted(ends, drawn, side="right")
            rows = self._rows(stop[column] - ends[column] + drawn, column)
            found = np.concatenate([found, rows[self._real[rows]]])
            if len(found) >= count:
                return found[:count]
        raise ValueError(
            f"There is no whole transition in the replay yet, of {len(self)} steps: add more."
        )

    def _follow(self, first: np.ndarray, stop: np.ndarray) -> None:
        """Gives what can be sampled now a priority, and none to what cannot any more."""
        assert self.tree is not None
        now_first, now_stop = self._window()
        self.tree.set(self._between(first, np.minimum(now_first, stop)), 0.0)
        rows = self._between(np.maximum(stop, now_first), now_stop)
        self.tree.set(rows, self._real[rows] * self._highest**self.alpha)

    def _between(self, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
        counts = np.maximum(stop - first, 0)
        columns = np.repeat(np.arange(self.num_envs), counts)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._rows(first[columns] + offsets, columns)

    def _used(self) -> np.ndarray:
        oldest = np.maximum(self._written + 1 - self.rows, 0)
        return self._between(oldest, self._written + 1)
