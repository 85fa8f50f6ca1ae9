"""The replay buffer: a ring of steps for each environment, which stores each observation once.

Row t of a ring holds an observation, the action, and the reward and flags that followed. The
observation that the step led to is that of row t + 1. So n-step returns are computed when
transitions are sampled, and nothing is stored twice. The observation that an episode ended with has
its own row, which is not a step and is never sampled.

If observations are stacks of k frames, only the newest frame is stored, and the first observation
of an episode takes k rows. A stack is then k successive rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.core.memory import check_memory
from tfpg.ops.returns import n_step_transitions
from tfpg.rollouts.replay_storage import INDEX, bytes_needed, columns_of, make_rows, row_of
from tfpg.rollouts.sum_tree import SumTree
from tfpg.rollouts.trajectory import Trajectory

# Added to errors, so that each transition can be sampled again.
_MIN_PRIORITY = 1e-6


class Transitions(NamedTuple):
    """A sample of B steps to learn from.

    Example:
        >>> transitions = Transitions(*np.zeros((7, 5)))
        >>> len(transitions.rewards)
        5
    """

    observations: Any  # [B, ...]  as the environment returned them
    actions: np.ndarray  # [B]  int32; or vectors, [B, D]
    rewards: np.ndarray  # [B]  discounted sum of up to n rewards, float32
    discounts: np.ndarray  # [B]  of the next value, 0 where the step terminated, float32
    next_observations: Any  # [B, ...]  n steps later, or what the episode ended with
    weights: np.ndarray  # [B]  of the losses, 1 unless prioritized, float32
    indices: np.ndarray  # [B]  for `ReplayBuffer.update_priorities`
    noise: Any = ()  # [B, ...]  for losses that sample actions


class ReplayBuffer:
    """The most recent steps of N environments, sampled uniformly or by their errors.

    Args:
        observation_space: The observation space of one environment.
        capacity: Number of rows, divided among the environments. Each step takes one, each end of
            an episode another one, and with stacked frames each start as many as are stacked.
        num_envs: N, the number of columns of the trajectories.
        n_step: Number of rewards of a transition.
        gamma: Discount factor, in [0, 1].
        frame_stack: How many frames an observation stacks along its last axis. None: observations
            are stored as they are.
        prioritized: Whether to sample by errors instead of uniformly.
        alpha: How much errors count, from 0 (not at all) to 1.
        device: The TensorFlow device that stores images. None: main memory.
        action: The dtype of an action, with its shape.

    Attributes:
        nbytes: Memory of the full buffer.

    Raises:
        ValueError: ``capacity`` is too small for the environments.
        MemoryError: There is less memory than the full buffer needs.

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
        action: np.dtype = INDEX,
    ):
        self.num_envs = num_envs
        self.n_step = n_step
        self.gamma = gamma
        self.stack = frame_stack or 1
        self.alpha = alpha
        self.rows = capacity // num_envs
        least = 2 * self.stack + self.n_step + 1  # enough to add a step that begins an episode
        if self.rows < least:
            raise ValueError(
                f"A replay buffer of capacity {capacity} has {self.rows} rows for each of "
                f"{num_envs} environments, and needs at least {least}: use a capacity of "
                f"{least * num_envs} or more."
            )
        total = self.rows * num_envs
        self.nbytes, images = bytes_needed(
            observation_space, total, frame_stack, prioritized, action
        )
        here = self.nbytes if device is None else self.nbytes - images
        check_memory(here, f"A replay buffer of {total:,} rows", "use a smaller capacity")
        self._observations = make_rows(row_of(observation_space, self.stack), total, device)
        self._columns: dict[str, np.ndarray] = {
            name: np.zeros(total, dtype) for name, dtype in columns_of(action).items()
        }
        self._real = self._columns["real"]
        self.tree = SumTree(total) if prioritized else None
        self._highest = 1.0
        # Rows written to each ring so far. The row after them holds the observation after the last
        # step, which the next step takes over unless an episode ended with it.
        self._written = np.zeros(num_envs, np.int64)
        self._running = np.zeros(num_envs, bool)  # whether the last step's episode continues
        self._size = 0

    def __len__(self) -> int:
        """Return the number of steps that are stored."""
        return self._size

    @property
    def ready(self) -> bool:
        """Whether there is a complete transition to sample."""
        return bool(self._real[self._rows_between(*self._window())].any())

    @property
    def written(self) -> np.ndarray:
        """Rows written to each ring so far, ``[N]``."""
        return self._written.copy()

    def add(self, data: Trajectory) -> None:
        """Store the steps of a trajectory with an environment in each column.

        They continue the last one's, except where `cut` was called or the first row is masked.

        Raises:
            ValueError: The trajectory is longer than a ring.
        """
        real = data.mask > 0
        self.cut(~real[0])
        some, columns = real.any(axis=0), np.arange(self.num_envs)
        first = real.argmax(axis=0)
        last = len(real) - 1 - real[::-1].argmax(axis=0)
        times = np.arange(len(real))[:, None]
        # Masked rows between two episodes are kept; those before and after are padding.
        kept = (times >= first) & (times <= last) & some
        before = np.concatenate([np.zeros_like(real[:1]), real[:-1]])
        before[first, columns] = self._running
        begins = real & ~before
        start = self._written + (some & ~self._running & (self._written > 0))
        positions = start + np.cumsum(kept + begins * (self.stack - 1), axis=0) - 1
        written = np.where(some, positions[last, columns] + 1, self._written)
        if (written - self._written).max() > self.rows - self.stack - self.n_step:
            raise ValueError(
                f"{len(real)} steps of each environment are too many to add at once to a replay "
                f"buffer with {self.rows} rows for each: use a larger capacity."
            )
        window = self._window()
        seen = map_arrays(lambda x: x[:-1], data.observations)
        rows = self._rows_at(positions, columns)[kept]
        self._put(rows, seen, kept, real[kept])
        for ago in range(1, self.stack):
            self._put(self._rows_at(positions - ago, columns)[begins], seen, begins, False, ago)
        for name in ("actions", "rewards", "terminated", "truncated"):
            self._columns[name][rows] = getattr(data, name)[kept]
        after = self._rows_at(written, columns)[some]
        self._put(after, data.observations, (last[some] + 1, columns[some]), False)
        self._written = written
        ended = (data.terminated | data.truncated)[last, columns]
        self._running = np.where(some, ~ended, self._running)
        if self.tree is not None:
            self._move_priorities(*window)

    def cut(self, which: np.ndarray | bool = True) -> None:
        """Truncate the running episodes of some environments, ``[N]`` bool."""
        rows = self._rows_at(self._written - 1, np.arange(self.num_envs))
        self._columns["truncated"][rows[self._running & which]] = True
        self._running = self._running & ~np.asarray(which)

    def sample(
        self, rng: np.random.Generator, count: int, batch_size: int | None = None, beta: float = 1.0
    ) -> Transitions:
        """Sample transitions, with replacement.

        Args:
            rng: The random generator.
            count: B, the number of transitions.
            batch_size: How many successive ones are a batch. The largest weight of prioritized
                transitions is 1 in each batch. None: all are one batch.
            beta: How far the weights correct for the priorities, from 0 to 1.

        Raises:
            ValueError: There is no complete transition yet.
        """
        rows = self._draw(rng, count, batch_size or count)
        weights = np.ones(count, np.float32)
        if self.tree is not None:
            rarity = self.tree.get(rows).reshape(-1, batch_size or count) ** -beta
            weights = (rarity / rarity.max(axis=1, keepdims=True)).astype(np.float32).ravel()
        columns, steps = self._columns, self._later(rows, np.arange(self.n_step)[:, None])
        rewards, discounts, lengths = n_step_transitions(
            *(columns["rewards"][steps], self.gamma),
            *(columns["terminated"][steps], columns["truncated"][steps]),
        )
        return Transitions(
            self.observations(rows),
            columns["actions"][rows],
            rewards.astype(np.float32),
            discounts.astype(np.float32),
            self.observations(self._later(rows, lengths)),
            weights,
            rows,
        )

    def observations(self, rows: np.ndarray) -> Any:
        """Return the observations ``[B, ...]`` of rows ``[B]``, stacked."""
        if self.stack == 1:
            return map_arrays(lambda x: x.take(rows), self._observations)
        frames = self._later(rows[:, None], np.arange(1 - self.stack, 1))
        return map_arrays(lambda x: x.stacked(frames), self._observations)

    def update_priorities(self, indices: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities of transitions ``[B]`` by their errors ``[B]``, of either sign."""
        assert self.tree is not None
        priorities = np.abs(errors).astype(np.float64) + _MIN_PRIORITY
        self._highest = max(self._highest, float(priorities.max()))
        there = self.tree.get(indices) > 0  # others have been overwritten since
        self.tree.set(indices[there], priorities[there] ** self.alpha)

    def get_state(self) -> dict[str, Any]:
        """Return everything except the rows, which `rows_since` returns."""
        state: dict[str, Any] = {
            "n_step": self.n_step,
            "rows": self.rows,
            "written": self._written.copy(),
            "running": self._running.copy(),
            "highest": self._highest,
        }
        if self.tree is not None:
            state["priorities"] = self.tree.get(self._rows_between(*self._stored()))
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
        oldest, stop = self._stored()
        first = oldest if written is None else np.maximum(written - 1, oldest)
        rows = self._rows_between(first, stop)
        record: dict[str, Any] = {name: column[rows] for name, column in self._columns.items()}
        record["observations"] = map_arrays(lambda x: x.numpy(rows), self._observations)
        return {**record, "first": first, "written": self._written.copy()}

    def set_state(self, state: dict[str, Any], records: Iterable[dict[str, Any]]) -> None:
        """Restore a buffer that was made with the same arguments.

        Args:
            state: From `get_state`.
            records: From `rows_since`, in order: they must cover all rows of the state.

        Raises:
            ValueError: The state belongs to a buffer made with other arguments.
        """
        self._check_state(state)
        self._real[:] = False
        for record in records:
            rows = self._rows_between(record["first"], np.asarray(record["written"]) + 1)
            for name, column in self._columns.items():
                column[rows] = record[name]

            def put(target: Any, values: np.ndarray, rows: np.ndarray = rows) -> None:
                target[rows] = values

            map_arrays(put, self._observations, record["observations"])
        self._written = np.array(state["written"], np.int64)
        self._running = np.array(state["running"], bool)
        self._highest = float(state["highest"])
        stored = self._rows_between(*self._stored())
        kept = np.zeros_like(self._real)
        kept[stored] = True
        self._real &= kept
        self._size = int(self._real.sum())
        if self.tree is not None:
            self.tree = SumTree(self.rows * self.num_envs)
            self.tree.set(stored, state["priorities"])

    def _check_state(self, state: dict[str, Any]) -> None:
        own = {
            "num_envs": self.num_envs,
            "rows": self.rows,
            "n_step": self.n_step,
            "prioritized": self.tree is not None,
        }
        given = {**state, "num_envs": len(state["written"]), "prioritized": "priorities" in state}
        for name, value in own.items():
            if given[name] != value:
                raise ValueError(
                    f"The state belongs to a replay buffer with {name}={given[name]}, but this one "
                    f"has {name}={value}: make it with the same arguments."
                )

    def _put(
        self, rows: np.ndarray, observations: Any, which: Any, real: Any, ago: int = 0
    ) -> None:
        """Write ``observations[which]``, or their frames of some steps ago, to rows."""

        def put(target: Any, x: np.ndarray) -> None:
            target[rows] = x[which] if self.stack == 1 else x[..., -1 - ago][which]

        map_arrays(put, self._observations, observations)
        self._size += int(np.sum(real)) - int(np.sum(self._real[rows]))
        self._real[rows] = real

    def _draw(self, rng: np.random.Generator, count: int, batch_size: int) -> np.ndarray:
        """The rows ``[B]`` of steps whose transitions are complete."""
        if self.tree is not None and self.tree.total > 0:
            strata = np.arange(count) % batch_size + rng.random(count)
            return self.tree.find(strata * (self.tree.total / batch_size))
        first, stop = self._window()
        ends = np.cumsum(stop - first)
        found = np.zeros(0, np.int64)
        # About a row in twenty is not a step. A buffer that holds few steps needs more draws.
        for _ in range(1000 if self.tree is None and ends[-1] else 0):
            drawn = rng.integers(ends[-1], size=count + count // 8 + 8)
            column = np.searchsorted(ends, drawn, side="right")
            rows = self._rows_at(stop[column] - ends[column] + drawn, column)
            found = np.concatenate([found, rows[self._real[rows]]])
            if len(found) >= count:
                return found[:count]
        raise ValueError(
            f"The replay buffer holds {len(self)} steps and no complete transition yet: add more."
        )

    def _move_priorities(self, first: np.ndarray, stop: np.ndarray) -> None:
        """Update the tree; ``first`` and ``stop`` are of the window before rows were added."""
        assert self.tree is not None
        now_first, now_stop = self._window()
        self.tree.set(self._rows_between(first, np.minimum(now_first, stop)), 0.0)
        rows = self._rows_between(np.maximum(stop, now_first), now_stop)
        self.tree.set(rows, self._real[rows] * self._highest**self.alpha)

    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        """The first position of each ring that is stored, and the one after the last."""
        return np.maximum(self._written + 1 - self.rows, 0), self._written + 1

    def _window(self) -> tuple[np.ndarray, np.ndarray]:
        """The first position of each ring that can be sampled, and the one after the last."""
        oldest, stop = self._stored()
        oldest = oldest + self.stack - 1
        return oldest, np.maximum(stop - self.n_step, oldest)

    def _rows_between(self, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The rows of the positions from ``first`` to ``stop`` of each ring, ``[N]`` each."""
        counts = np.maximum(stop - first, 0)
        columns = np.repeat(np.arange(self.num_envs), counts)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._rows_at(np.asarray(first)[columns] + offsets, columns)

    def _rows_at(self, positions: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The rows of positions in the rings of columns."""
        return columns * self.rows + positions % self.rows

    def _later(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The rows that are some steps later in the same rings."""
        place = rows % self.rows
        return rows - place + (place + steps) % self.rows
