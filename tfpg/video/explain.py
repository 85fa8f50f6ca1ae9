"""What a policy thinks of what it sees, in numbers that can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

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

# What the numbers of actions mean, by the ids of environments without their versions.
_ACTIONS = {
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


class Bar(NamedTuple):
    """One row of a bar chart."""

    label: str
    share: float  # of the full width, in [0, 1]
    text: str
    chosen: bool


class Range:
    """The lowest and the highest number so far, between which bars are drawn.

    Example:
        >>> seen = Range()
        >>> seen.share(np.array([0.0, 4.0])).tolist(), seen.share(np.array([1.0])).tolist()
        ([0.0, 1.0], [0.25])
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def share(self, values: np.ndarray) -> np.ndarray:
        """Where values lie, in [0, 1], after they have widened the range."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        width = self.high - self.low
        return (values - self.low) / width if width > 0 else np.full(values.shape, 0.5)


def action_names(env: gymnasium.Env) -> tuple[str, ...]:
    """What the actions of an environment are called, or their numbers.

    For a `Box` or the parts of another space, what they are called.

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
    known = _ACTIONS.get(name, ())
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if callable(meanings):
        known = tuple(str(name).lower() for name in meanings())
    return known if len(known) == len(numbers) else tuple(f"action {n}" for n in numbers)


def bar_labels(space: gymnasium.Space, names: Sequence[str]) -> tuple[str, ...]:
    """The widest labels that `bars` may give.

    Example:
        >>> bar_labels(gymnasium.spaces.MultiDiscrete([12, 2]), ("steer", "gas"))
        ('steer: 11', 'gas: 0')
    """
    if not isinstance(space, gymnasium.spaces.MultiDiscrete):
        return tuple(names)
    ends = zip(names, space.start.ravel(), space.nvec.ravel(), strict=True)
    widest = ((name, max(str(start), str(start + n - 1), key=len)) for name, start, n in ends)
    return tuple(f"{name}: {number}" for name, number in widest)


def action_text(space: gymnasium.Space, action: Any, names: Sequence[str]) -> str:
    """An action in words.

    Example:
        >>> action_text(gymnasium.spaces.Discrete(2), 1, ("left", "right"))
        'right'
        >>> action_text(gymnasium.spaces.Box(-1, 1, (2,)), np.array([0.5, -1.0]), ("a", "b"))
        '0.50 -1.00'
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        return names[int(action) - int(space.start)]
    values = np.asarray(action).ravel()
    how = two_digits if values.dtype.kind == "f" else str
    return " ".join(how(value) for value in values)


def two_digits(value: float) -> str:
    """A number with two digits after the point, and no sign of a zero.

    Example:
        >>> two_digits(-0.001), two_digits(-1.5)
        ('0.00', '-1.50')
    """
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text


def bars(policy: Policy, decision: Decision, names: Sequence[str], seen: Range) -> list[Bar]:
    """How much a policy is for each action, as it decided on one observation.

    Probabilities of `Discrete` actions and of the bits of `MultiBinary` ones, that of the choice
    of each part of a `MultiDiscrete` one, values for a Q-network, and where in its bounds each
    number of a `Box` lies.

    Args:
        policy: That decided.
        decision: On one observation.
        names: Of the actions, or of the parts of one.
        seen: Of the values so far.

    Example:
        >>> import tfpg
        >>> policy = Policy(tfpg.networks.mlp("CartPole-v1", seed=0), "CartPole-v1")
        >>> decision = policy.actor()(np.zeros((1, 4), np.float32))
        >>> [(bar.label, bar.text) for bar in bars(policy, decision, ("left", "right"), Range())]
        [('left', '0.50'), ('right', '0.50')]
    """
    chosen, space = decision.env_actions[0], policy.action_space
    kind: Any = policy.distribution_of(decision.outputs)
    if isinstance(kind, EpsilonGreedy):
        values = kind.q_values[0]
        picked = np.arange(len(values)) == int(chosen) - int(space.start)  # type: ignore
        return _bars(names, seen.share(values), values, picked)
    if isinstance(kind, (Bernoulli, Categorical)):
        count = int(space.n)  # type: ignore[attr-defined]
        options = np.arange(count)
        probabilities = np.exp([kind.log_prob(np.array([a]))[0] for a in options])
        picked = options == int(chosen) - int(space.start)  # type: ignore[attr-defined]
        return _bars(names, probabilities, probabilities, picked)
    if isinstance(kind, MultiBinary):
        probabilities = sigmoid(kind.logits[0])
        return _bars(names, probabilities, probabilities, np.asarray(chosen).ravel() > 0)
    if isinstance(kind, MultiCategorical):
        actions = decision.actions[0]
        parts = zip(kind.groups(), actions, strict=True)
        probabilities = np.exp([part.log_prob(np.array([a]))[0] for part, a in parts])
        played = np.asarray(chosen).ravel()
        labels = [f"{name}: {a}" for name, a in zip(names, played, strict=True)]
        return _bars(labels, probabilities, probabilities, np.ones(len(labels), bool))
    values = np.asarray(chosen, float).ravel()
    low, high = (np.asarray(x, float).ravel() for x in (space.low, space.high))  # type: ignore
    bounded = np.isfinite(low) & np.isfinite(high)
    shares = seen.share(values)
    width = np.where(bounded & (high > low), high - low, 1.0)
    shares = np.where(bounded, (values - np.where(bounded, low, 0.0)) / width, shares)
    return _bars(names, shares, values, np.ones(len(values), bool))


def _bars(names: Any, shares: Any, values: Any, chosen: Any) -> list[Bar]:
    rows = zip(names, shares, values, chosen, strict=True)
    return [
        Bar(name, float(share), two_digits(value), bool(picked))
        for name, share, value, picked in rows
    ]


def value_reader(policy: Policy) -> Callable[[Any, Decision], float] | None:
    """A function of an observation ``[1, ...]`` and the decision on it: what it is worth.

    That is the model's second output, or a Q-network's largest value. None: the model has neither.

    Example:
        >>> import tfpg
        >>> value_reader(Policy(tfpg.networks.mlp("CartPole-v1"), "CartPole-v1"))
        >>> model = tfpg.networks.actor_critic("CartPole-v1", seed=0)
        >>> policy = Policy(model, "CartPole-v1")
        >>> zeros = np.zeros((1, 4), np.float32)
        >>> value_reader(policy)(zeros, policy.actor()(zeros))
        0.0
    """
    from tfpg.core.backend import tf

    if policy.has_value:

        @tf.function(input_signature=[policy.input_spec], autograph=False)
        def value(inputs: Any) -> tf.Tensor:
            return policy.value(inputs)

        return lambda observation, _: float(value(policy.encode(observation))[0])
    if isinstance(policy.head, EpsilonGreedyHead):
        return lambda _, decision: float(decision.outputs[0].max())
    return None


def entropy(policy: Policy, decision: Decision) -> float:
    """Entropy of the distribution that one decision was drawn from, in nats."""
    return float(policy.distribution_of(decision.outputs).entropy()[0])
