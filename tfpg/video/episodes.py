"""Episodes as they are filmed: who plays which, and what is seen of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.core.seeding import evaluation_rng, reset_seed
from tfpg.models.policy import Decision, as_policy, is_policy_like
from tfpg.rollouts.evaluation import actor_for
from tfpg.rollouts.finite import check_observations, check_rewards
from tfpg.rollouts.loop import NO_LIMIT_STEPS, ActionNoise, warn_of_the_cut
from tfpg.video.render_env import pictures


class Take(NamedTuple):
    """An episode to film."""

    policy: Any
    episode: int  # its number, of which with the film's seed all its randomness follows
    title: str = ""


class Shot(NamedTuple):
    """One picture of an episode, and what is known when it is seen."""

    image: Any  # as the environment rendered it
    observation: Any  # [1, ...]
    decision: Decision | None  # on that observation; None where the episode is over
    step: int
    episode_return: float


class Player:
    """Plays episodes in one environment.

    Args:
        policy: A Keras model, an agent, a `tfpg.Policy` or a callable.
        env: The environment.
        seed: Of the film.
        deterministic: Play the most probable action; else sample.
        max_steps: Where an episode is cut. None: the environment's own limit.
    """

    def __init__(
        self,
        policy: Any,
        env: gymnasium.Env,
        seed: int,
        deterministic: bool = True,
        max_steps: int | None = None,
    ):
        self.env = env
        self._act, self._head = actor_for(policy, env, deterministic)
        self._seed = seed
        self._max_steps = max_steps

    def shots(self, episode: int) -> Iterator[Shot]:
        """What is seen of an episode: a picture after the reset and after every step, or more.

        Raises:
            tfpg.errors.EnvDataError: A reward is not finite, or what a model was given.
            FloatingPointError: The model's outputs are not.
        """
        for observation, decision, step, episode_return in self._steps(episode):
            for image in pictures(self.env):
                yield Shot(image, observation, decision, step, episode_return)

    def outcome(self, episode: int) -> float:
        """The return of an episode, which nothing is seen of."""
        ((*_, episode_return),) = deque(self._steps(episode), maxlen=1)
        return episode_return

    def _steps(self, episode: int) -> Iterator[tuple[Any, Decision | None, int, float]]:
        env, rng = self.env, evaluation_rng(self._seed, episode)
        own = env.spec and env.spec.max_episode_steps
        limit = self._max_steps or own or NO_LIMIT_STEPS
        noise = repeat(None) if self._head is None else ActionNoise(self._head, [rng])
        observation, _ = env.reset(seed=reset_seed(rng))
        episode_return, over = 0.0, False
        for t in range(limit + 1):
            row = map_arrays(lambda x: np.asarray(x)[np.newaxis], observation)
            if over or t == limit:
                yield row, None, t, episode_return
                break
            decision = self._decide(row, next(noise), t)
            yield row, decision, t, episode_return
            observation, reward, terminated, truncated, _ = env.step(decision.env_actions[0])
            check_rewards(np.asarray([reward], float), np.ones(1, bool), t)
            episode_return += float(reward)
            over = terminated or truncated
        if not (over or self._max_steps or own):
            warn_of_the_cut(limit)

    def _decide(self, row: Any, noise: np.ndarray | None, step: int) -> Decision:
        try:
            return self._act(row, noise)
        except FloatingPointError:
            check_observations(row, np.ones(1, bool), step)
            raise


def as_player(policy: Any, env: gymnasium.Env) -> Any:
    """A `tfpg.Policy` for the environment, or the callable that it is.

    Raises:
        TypeError, ValueError: It is none, or does not fit.
    """
    return as_policy(policy, env) if is_policy_like(policy) or not callable(policy) else policy


def takes_of(policy: Any, episodes: int) -> list[Take]:
    """The episodes of a film, those of one policy after each other.

    Args:
        policy: What plays, or a mapping from titles to what plays.
        episodes: Of each; policies play the same ones.

    Example:
        >>> [take[1:] for take in takes_of({"before": 1, "after": 2}, 2)]
        [(0, 'before'), (1, 'before'), (0, 'after'), (1, 'after')]
    """
    named = policy if isinstance(policy, Mapping) else {"": policy}
    if not named:
        raise ValueError("There is no policy in the mapping: nothing to film.")
    titles = {" ".join(str(title).split()): each for title, each in named.items()}
    return [Take(each, e, title) for title, each in titles.items() for e in range(episodes)]


def ranked(takes: list[Take], outcome: Callable[[Take], float]) -> list[Take]:
    """The best, the median and the worst of some episodes, by their returns.

    The best of equals is the first of them, the worst the last; the median of an even number of
    episodes is the lower of the two in the middle.

    Args:
        takes: At least 1. Of fewer than 3 all, each once.
        outcome: The return of one.

    Example:
        >>> takes = ranked(takes_of(None, 5), lambda take: float(take.episode))
        >>> [(take.episode, take.title) for take in takes]
        [(4, 'best of 5'), (2, 'median of 5'), (0, 'worst of 5')]
    """
    returns = [outcome(take) for take in takes]
    order = sorted(range(len(takes)), key=lambda i: -returns[i])
    middle = {order[len(takes) // 2]: "median"} if len(takes) > 2 else {}
    last = {order[-1]: "worst"} if len(takes) > 1 else {}
    chosen = {order[0]: "best", **middle, **last}
    return [
        takes[i]._replace(title=f"{takes[i].title} {rank} of {len(takes)}".strip())
        for i, rank in chosen.items()
    ]
