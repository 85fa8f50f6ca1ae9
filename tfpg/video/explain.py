"""A policy's outputs for one observation, as numbers and bars to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from tfpg.core.backend import tf
from tfpg.models.heads import EpsilonGreedyHead
from tfpg.models.policy import Decision, Policy
from tfpg.ops.distributions import (
    Bernoulli,
    Categorical,
    EpsilonGreedy,
    MultiBinary,
    MultiCategorical,
)
from tfpg.ops.numeric import sigmoid
from tfpg.video.panel import Bar

# Names of actions, by environment id without the version.
_ACTION_NAMES = {
    "CartPole": ("left", "right"),
    "MountainCar": ("left", "coast", "right"),
    "MountainCarContinuous": ("force",),
    "Acrobot": ("torque -1", "torque 0", "torque +1"),
    "Pendulum": ("torque",),
    "LunarLander": ("coast", "left engine", "main engine", "right engine"),
    "LunarLanderContinuous": ("main engine", "side engines"),
    "BipedalWalker": ("hip 1", "knee 1", "hip 2", "knee 2"),
    "CarRacing": ("steer", "gas", "brake"),
    "FrozenLake": ("left", "down", "right", "up"),
    "FrozenLake8x8": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"),
    "Blackjack": ("stick", "hit"),
}


class RunningRange:
    """The range of all values so far, which scales values to [0, 1].

    Example:
        >>> values = RunningRange()
        >>> values.scale(np.array([0.0, 4.0])).tolist(), values.scale(np.array([1.0])).tolist()
        ([0.0, 1.0], [0.25])
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Widen the range to include the values, and return where they lie in it."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        width = self.high - self.low
        return (values - self.low) / width if width > 0 else np.full(values.shape, 0.5)


def action_names(env: gymnasium.Env) -> tuple[str, ...]:
    """Return the names of an environment's actions, or of the parts of an action.

    Example:
        >>> from tfpg.envs import open_env
        >>> with open_env("CartPole-v1") as env:
        ...     action_names(env)
        ('left', 'right')
    """
    space: Any = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        numbers = range(int(space.start), int(space.start + space.n))
    else:
        numbers = range(int(np.prod(space.shape or (1,))))
    name = env.spec.id.rpartition("/")[2].rpartition("-v")[0] if env.spec else ""
    if name == "LunarLander" and isinstance(space, gymnasium.spaces.Box):
        name = "LunarLanderContinuous"
    names = _ACTION_NAMES.get(name, ())
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if callable(meanings):
        names = tuple(str(meaning).lower() for meaning in meanings())
    return names if len(names) == len(numbers) else tuple(f"action {n}" for n in numbers)


def action_text(space: gymnasium.Space, action: Any, names: Sequence[str]) -> str:
    """Return the name of a discrete action, or the numbers of another one.

    Example:
        >>> action_text(gymnasium.spaces.Discrete(2), 1, ("left", "right"))
        'right'
        >>> action_text(gymnasium.spaces.Box(-1, 1, (2,)), np.array([0.5, -1.0]), ("a", "b"))
        '0.50 -1.00'
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        return names[int(action) - int(space.start)]
    values = np.asarray(action).ravel()
    to_text = two_decimals if values.dtype.kind == "f" else str
    return " ".join(to_text(value) for value in values)


def two_decimals(value: float) -> str:
    """Format a number with two decimals, and zero without a sign.

    Example:
        >>> two_decimals(-0.001), two_decimals(-1.5)
        ('0.00', '-1.50')
    """
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text


def widest_bar_labels(space: gymnasium.Space, names: Sequence[str]) -> tuple[str, ...]:
    """Return the widest labels that `action_bars` may use.

    Example:
        >>> widest_bar_labels(gymnasium.spaces.MultiDiscrete([12, 2]), ("steer", "gas"))
        ('steer: 11', 'gas: 0')
    """
    if not isinstance(space, gymnasium.spaces.MultiDiscrete):
        return tuple(names)
    ends = zip(names, space.start.ravel(), space.nvec.ravel(), strict=True)
    widest = ((name, max(str(start), str(start + n - 1), key=len)) for name, start, n in ends)
    return tuple(f"{name}: {number}" for name, number in widest)


def action_bars(
    policy: Policy, decision: Decision, names: Sequence[str], q_range: RunningRange
) -> list[Bar]:
    """Return one bar per action, or per part of an action, for a decision on one observation.

    A bar shows, by the kind of policy:

    - Q-network: the Q-value of an action, within ``q_range``, which it widens; -inf if invalid
    - `Discrete`: the probability of an action
    - `MultiBinary`: the probability of a 1
    - `MultiDiscrete`: the probability of the choice that was made
    - `Box`: the number that is played, within its bounds, or else within ``q_range``

    Example:
        >>> import tfpg
        >>> policy = Policy(tfpg.networks.mlp("CartPole-v1", seed=0), "CartPole-v1")
        >>> decision = policy.actor()(np.zeros((1, 4), np.float32))
        >>> bars = action_bars(policy, decision, ("left", "right"), RunningRange())
        >>> [(bar.label, bar.text) for bar in bars]
        [('left', '0.50'), ('right', '0.50')]
    """
    space: Any = policy.action_space
    played = np.ravel(decision.env_actions[0])
    distribution: Any = policy.distribution_of(decision.outputs)
    if isinstance(distribution, EpsilonGreedy):
        values = policy.value_scale * distribution.q_values[0]
        lengths, chosen = np.zeros(len(values)), np.arange(len(values)) == played - space.start
        valid = np.isfinite(values)
        lengths[valid] = q_range.scale(values[valid])
    elif isinstance(distribution, (Bernoulli, Categorical)):
        options = np.arange(int(space.n))
        values = lengths = np.exp([distribution.log_prob(np.array([a]))[0] for a in options])
        chosen = options == played - space.start
    elif isinstance(distribution, MultiBinary):
        values = lengths = sigmoid(distribution.logits[0])
        chosen = played > 0
    elif isinstance(distribution, MultiCategorical):
        parts = zip(distribution.groups(), decision.actions[0], strict=True)
        values = lengths = np.exp([part.log_prob(np.array([a]))[0] for part, a in parts])
        names = [f"{name}: {a}" for name, a in zip(names, played, strict=True)]
        chosen = np.ones(len(values), bool)
    else:
        values = played.astype(float)
        lengths, chosen = _within_bounds(space, values, q_range), np.ones(len(values), bool)
    rows = zip(names, lengths, values, chosen, strict=True)
    return [Bar(name, float(x), two_decimals(v), bool(c)) for name, x, v, c in rows]


def _within_bounds(space: Any, values: np.ndarray, unbounded: RunningRange) -> np.ndarray:
    """The positions of the numbers of a `Box` action within its bounds, in [0, 1]."""
    low, high = (np.asarray(bound, float).ravel() for bound in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high)
    low = np.where(bounded, low, 0.0)
    width = np.where(bounded & (high > low), high - low, 1.0)
    return np.where(bounded, (values - low) / width, unbounded.scale(values))


def value_function(policy: Policy) -> Callable[[Any, Decision], float] | None:
    """Return a function of an observation ``[1, ...]`` and the decision on it: its value.

    The value is the model's second output, in units of the rewards, or the largest Q-value. None
    for models without either.

    Example:
        >>> import tfpg
        >>> value_function(Policy(tfpg.networks.mlp("CartPole-v1"), "CartPole-v1"))
        >>> model = tfpg.networks.actor_critic("CartPole-v1", seed=0)
        >>> policy = Policy(model, "CartPole-v1")
        >>> zeros = np.zeros((1, 4), np.float32)
        >>> value_function(policy)(zeros, policy.actor()(zeros))
        0.0
    """
    scale = policy.value_scale
    if policy.has_value:

        @tf.function(input_signature=[policy.input_spec], autograph=False)
        def value(inputs: Any) -> tf.Tensor:
            return policy.value(inputs)

        def value_of(observation: Any, decision: Decision) -> float:
            if decision.memory is not None:
                from tfpg.models.recurrent import joined

                observation = joined(observation, decision.memory)
            return scale * float(value(policy.encode(observation))[0])

        return value_of
    if isinstance(head := policy.head, EpsilonGreedyHead):
        return lambda _, decision: scale * float(head.q_values(decision.outputs).max())
    return None


def entropy(policy: Policy, decision: Decision) -> float:
    """Return the entropy of the distribution that a decision was drawn from, in nats."""
    return float(policy.distribution_of(decision.outputs).entropy()[0])
