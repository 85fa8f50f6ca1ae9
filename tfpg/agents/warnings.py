"""Warnings about training that is unlikely to succeed, each shown once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from tfpg.core.messages import warn
from tfpg.errors import TrainingWarning
from tfpg.models.heads import Head
from tfpg.rollouts.trajectory import Trajectory

_PATIENCE = 5  # iterations
_LEAST_EXPLAINED = 0.05  # variance, for many steps and iterations
_UNEXPLAINED_STEPS, _UNEXPLAINED_ITERATIONS = 50_000, 40
_MOST_KEPT = 1000
# Q-values may exceed the largest return so far by this factor: the policy may still improve.
_RETURN_FACTOR = 10.0
_DRIFT = 20  # iterations
_MANY_STEPS = 10_000


class _Warnings:
    """Shows each warning once, after its symptom has lasted for several iterations."""

    def __init__(self) -> None:
        self._lasted: dict[str, int] = {}
        self._shown: set[str] = set()

    def _observe(self, sign: str, seen: bool, text: str, patience: int = _PATIENCE) -> None:
        self._lasted[sign] = self._lasted.get(sign, 0) + 1 if seen else 0
        if self._lasted[sign] >= patience and sign not in self._shown:
            self._shown.add(sign)
            warn(text, TrainingWarning)


class TrainingWarnings(_Warnings):
    """Warns about returns, policies, values and gradients from which nothing can be learned.

    Args:
        head: The head of the policy.
        options: The names of the agent's options. Others are not recommended.
        trained: Whether the model was trained before. If so, equal returns may be the best ones.

    Example:
        >>> import warnings
        >>> from gymnasium.spaces import Discrete
        >>> from tfpg.models.heads import BernoulliHead
        >>> head = BernoulliHead(Discrete(2), from_logits=True, positive_action=1)
        >>> signs = TrainingWarnings(head)
        >>> with warnings.catch_warnings(record=True) as shown:
        ...     warnings.simplefilter("always")
        ...     for _ in range(20):
        ...         signs.look({"entropy": 1e-4, "grad_norm": 1.0}, [1.0, 2.0])
        >>> len(shown)
        1
    """

    def __init__(self, head: Head, options: Collection[str] = (), trained: bool = False):
        super().__init__()
        self._entropy_floor = head.low_entropy
        self._options = options
        self._first_return: float | None = None
        self._returns_differ = trained
        self._episodes = 0
        self._unexplained: list[tuple[float, float, float]] = []  # steps, mean return, spread
        self._look_at = 0.0  # how many of them

    def look(self, logs: dict[str, float], episode_returns: Sequence[float]) -> None:
        """Check an iteration.

        Args:
            logs: The logs of the iteration.
            episode_returns: The returns of the episodes that ended in it.
        """
        for value in episode_returns:
            if self._first_return is None:
                self._first_return = value
            self._returns_differ |= value != self._first_return
        self._episodes += len(episode_returns)
        constant = not self._returns_differ and self._episodes >= 10
        explore = self._known("entropy_coef", "explore_steps", "epsilon")
        self._observe(
            "returns",
            constant and len(episode_returns) > 0,
            f"All {self._episodes} episodes so far have the return {self._first_return}: no action "
            f"looks better than another yet. Explore more{explore}, play more episodes, or shape "
            "the reward.",
        )
        self._observe(
            "value",
            self._explains_nothing(logs, episode_returns),
            "The value function explains nothing: explained_variance has been near 0 for "
            f"{_UNEXPLAINED_STEPS:,} steps, and the returns do not improve. Normalize the "
            f"observations (normalize=True), scale the rewards{self._known('reward_scale')}, or "
            "use a larger network.",
            patience=1,
        )
        entropy = logs.get("entropy", math.inf)
        weights = ("alpha", "target_entropy", "entropy_coef")
        weight = next((name for name in weights if name in self._options), weights[-1])
        self._observe(
            "entropy",
            entropy < self._entropy_floor,
            f"The policy's entropy fell to {entropy:.3g} nats: it hardly explores anymore. If "
            f"episode_return is not high enough yet, use a larger {weight} or a smaller learning "
            "rate.",
        )
        self._observe(
            "gradient",
            logs.get("grad_norm", 1.0) < 1e-8 and len(set(episode_returns)) > 1,
            "The gradient has vanished: nothing is learned although returns differ. Check for "
            "saturated activations (large weights, or inputs that need normalize=True) and for "
            "layers that are not trainable.",
        )
        clipped = logs.get("clipped_actions", 0.0)
        self._observe(
            "clipped",
            clipped > 0.5,
            f"{clipped:.0%} of the actions are out of bounds and clipped, so the environment "
            "cannot tell them apart. Use squash=True, a smaller log_std, or "
            "gymnasium.wrappers.RescaleAction.",
        )

    def _known(self, *names: str) -> str:
        found = [name for name in names if name in self._options]
        return f" ({', '.join(found)})" if found else ""

    def _explains_nothing(self, logs: dict[str, float], episode_returns: Sequence[float]) -> bool:
        """Whether the value function has explained nothing for long, and returns do not improve."""
        if logs.get("explained_variance", 1.0) >= _LEAST_EXPLAINED:
            self._unexplained.clear()
            self._look_at = 0.0
        elif len(episode_returns):
            mean = sum(episode_returns) / len(episode_returns)
            spread = max(episode_returns) - min(episode_returns)
            self._unexplained.append((logs["env_steps"], mean, spread))
        count = len(self._unexplained)
        if count < max(self._look_at, _UNEXPLAINED_ITERATIONS):
            return False
        if count > _MOST_KEPT:
            del self._unexplained[1::2]
            count //= 2
        self._look_at = 1.25 * count  # looking at all of them takes time
        steps, means, spreads = np.array(self._unexplained).T
        early, late = np.array_split(means, 2)
        # A solved task leaves little to explain: its returns are all alike.
        vary = max(np.median(spreads), np.ptp(np.quantile(means, [0.25, 0.75])))
        return bool(
            steps[-1] - steps[0] >= _UNEXPLAINED_STEPS
            and vary > 0.1 * abs(np.median(means))
            and late.mean() <= early.mean() + means.std()
        )


class ReplayWarnings(_Warnings):
    """Warns if the replay buffer is too small for the steps before the first update.

    Args:
        gamma: Discount factor.
        capacity: The capacity of the replay buffer.
        learning_starts: Steps before the first update.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as shown:
        ...     warnings.simplefilter("always")
        ...     _ = ReplayWarnings(0.99, capacity=500, learning_starts=1000)
        >>> len(shown)
        1
    """

    def __init__(self, gamma: float, capacity: int, learning_starts: int):
        super().__init__()
        self.gamma = gamma
        self._observe(
            "capacity",
            capacity < learning_starts,
            f"The replay buffer holds {capacity:,} steps, fewer than "
            f"learning_starts={learning_starts:,}: the first steps are lost before anything is "
            "learned from them. Use a larger capacity.",
            patience=1,
        )

    def cut(self) -> None:
        """Take note that the environments start new episodes."""

    def meet(self, data: Trajectory) -> None:
        """Take note of steps that are stored."""

    def look(self, logs: dict[str, float]) -> None:
        """Check the logs of an iteration."""


class QLearningWarnings(ReplayWarnings):
    """Warns about impossible Q-values, too, and about steps from which nothing can be learned."""

    def __init__(self, gamma: float, capacity: int, learning_starts: int):
        super().__init__(gamma, capacity, learning_starts)
        #: the lowest and highest return that the network can represent, if known
        self.support: tuple[float, float] | None = None
        self._partial_returns: np.ndarray | None = None
        self._since_start = np.zeros((0, 2))  # the discounted return so far, and the next discount
        self._lowest_return, self._highest_return = np.inf, -np.inf
        self._largest_return = 0.0
        self._largest_reward = 0.0
        self._steps = self._terminated = self._truncated = 0
        self._values: deque[float] = deque(maxlen=_DRIFT)
        self._returns: deque[float] = deque(maxlen=_DRIFT)

    def cut(self) -> None:
        self._partial_returns = None

    def meet(self, data: Trajectory) -> None:
        real, rewards = data.mask > 0, data.rewards
        self._steps += int(real.sum())
        self._terminated += int((data.terminated & real).sum())
        self._truncated += int((data.truncated & real).sum())
        self._largest_reward = max(self._largest_reward, float(np.abs(rewards).max()))
        ended = data.terminated | data.truncated | ~real
        if self._partial_returns is None or len(self._partial_returns) != rewards.shape[1]:
            self._partial_returns = np.zeros(rewards.shape[1])
            self._since_start = np.tile([0.0, 1.0], (rewards.shape[1], 1))
        # Summed forward, which bounds the return without waiting for the end of the episode.
        for t in range(len(rewards)):
            self._partial_returns = self.gamma * self._partial_returns + rewards[t]
            largest = float(np.abs(self._partial_returns).max())
            self._largest_return = max(self._largest_return, largest)
            self._partial_returns[ended[t]] = 0.0
            self._since_start[:, 0] += self._since_start[:, 1] * rewards[t]
            self._since_start[:, 1] *= self.gamma
            # The returns of an episode's first step, and of its last one.
            returns = self._since_start[ended[t] & real[t], 0]
            returns = np.concatenate([returns, rewards[t, data.terminated[t] & real[t]]])
            self._lowest_return = min(self._lowest_return, returns.min(initial=np.inf))
            self._highest_return = max(self._highest_return, returns.max(initial=-np.inf))
            self._since_start[ended[t]] = 0.0, 1.0

    def look(self, logs: dict[str, float]) -> None:
        value, possible = logs["mean_q"], self._largest_possible_value()
        self._observe(
            "diverging",
            self._largest_reward > 0 and abs(value) > possible,
            f"Q-values diverge: their mean is {value:.3g}, but with gamma={self.gamma} and the "
            f"rewards so far no return can exceed {possible:.3g}. Use a smaller learning rate, "
            "double=True, a larger target_update_period, or reward_clip.",
        )
        self._observe(
            "drifting",
            self._drifts(value, logs.get("episode_return")),
            f"The targets drift: the mean Q-value went from {self._values[0]:.3g} to {value:.3g} "
            f"in {_DRIFT} iterations, but the returns did not follow. Use a larger "
            "target_update_period, a smaller tau, or a smaller learning rate.",
            patience=1,
        )
        self._observe(
            "terminals",
            self._steps >= _MANY_STEPS and self._terminated == 0 and self._truncated > 0,
            f"None of {self._steps:,} steps terminated; all episodes were truncated: every value "
            "is bootstrapped from another one, and none is grounded in a termination. Either the "
            "goal was never reached (explore more: explore_steps), or the environment reports "
            "truncated where it means terminated. In a task that never ends, this is normal.",
            patience=1,
        )
        low, high = self.support or (-np.inf, np.inf)
        slack = 0.01 * (high - low) if self.support else 0.0
        self._observe(
            "support",
            self._lowest_return < low - slack or self._highest_return > high + slack,
            f"Discounted returns range from {self._lowest_return:.3g} to "
            f"{self._highest_return:.3g}, outside the network's range, v_min={low:g} to "
            f"v_max={high:g}, so it cannot represent them. Use a larger range.",
            patience=1,
        )

    def _largest_possible_value(self) -> float:
        """A bound that the mean of Q-values should not exceed."""
        endless = np.inf if self.gamma == 1 else 1.5 * self._largest_reward / (1 - self.gamma)
        if self._truncated:  # the rewards after the cut are unknown
            return endless
        return min(endless, _RETURN_FACTOR * self._largest_return)

    def _drifts(self, value: float, episode_return: float | None) -> bool:
        self._values.append(value)
        self._returns.append(np.nan if episode_return is None else episode_return)
        if len(self._values) < _DRIFT:
            return False
        sizes = np.abs(self._values)
        grows = (np.diff(sizes) > 0).mean() > 0.9 and sizes[-1] > 2 * sizes[0]
        exceeds = sizes[-1] > 2 * self._largest_return
        return bool(grows and exceeds and self._returns[-1] <= self._returns[0])
