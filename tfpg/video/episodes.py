"""Playing episodes for a video: their choice, and the information at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.core.seeding import evaluation_rng, reset_seed
from tfpg.envs.supervised import SupervisedEnv
from tfpg.models.policy import Decision
from tfpg.rollouts.evaluation import actor_for, for_envs
from tfpg.rollouts.finite import check_observations, check_rewards
from tfpg.rollouts.loop import NO_LIMIT_STEPS, ActionNoise, warn_of_the_cut
from tfpg.video.render_env import render_images


class Episode(NamedTuple):
    """An episode to play."""

    policy: Any
    number: int  # all randomness follows from this number and the seed
    title: str = ""

    def numbered(self) -> Episode:
        """Return the same episode, with its number in the title."""
        return self._replace(title=f"{self.title} episode {self.number + 1}".strip())


class RenderedStep(NamedTuple):
    """One image of an episode, with the information to show with it."""

    image: Any  # as the environment rendered it
    observation: Any  # [1, ...]
    decision: Decision | None  # on that observation; None when the episode is over
    step: int
    episode_return: float


class Player:
    """Plays a policy's episodes in one environment. The arguments are those of `tfpg.record`."""

    def __init__(
        self,
        policy: Any,
        env: gymnasium.Env,
        seed: int,
        deterministic: bool = True,
        max_steps: int | None = None,
    ):
        self.env = SupervisedEnv(env)  # which checks what the environment returns
        self._act, self._head = actor_for(policy, env, deterministic)
        self._seed = seed
        self._max_steps = max_steps

    def rendered_steps(self, number: int) -> Iterator[RenderedStep]:
        """Play an episode, and yield its images: one or more after the reset and every step.

        Raises:
            tfpg.errors.EnvError: The environment raised an exception, or returned something wrong.
            tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
            FloatingPointError: An output of the model is NaN or infinite.
        """
        for observation, decision, step, episode_return in self._steps(number):
            for image in render_images(self.env):
                yield RenderedStep(image, observation, decision, step, episode_return)

    def episode_return(self, number: int) -> float:
        """Play an episode without rendering it, and return its return."""
        ((*_, episode_return),) = deque(self._steps(number), maxlen=1)
        return episode_return

    def _steps(self, number: int) -> Iterator[tuple[Any, Decision | None, int, float]]:
        env, rng = self.env, evaluation_rng(self._seed, number)
        env_limit = env.spec and env.spec.max_episode_steps
        limit = self._max_steps or env_limit or NO_LIMIT_STEPS
        noise = repeat(None) if self._head is None else ActionNoise(self._head, [rng])
        observation, _ = env.reset(seed=reset_seed(rng))
        act = for_envs(self._act, 1)
        episode_return, over = 0.0, False
        for t in range(limit + 1):
            row = map_arrays(lambda x: np.asarray(x)[np.newaxis], observation)
            if over or t == limit:
                yield row, None, t, episode_return
                break
            decision = _decide(act, row, next(noise), t)
            yield row, decision, t, episode_return
            observation, reward, terminated, truncated, _ = env.step(decision.env_actions[0])
            check_rewards(np.asarray([reward], float), np.ones(1, bool), t)
            episode_return += float(reward)
            over = terminated or truncated
        if not (over or self._max_steps or env_limit):
            warn_of_the_cut(limit)


def _decide(act: Callable, row: Any, noise: np.ndarray | None, step: int) -> Decision:
    try:
        return act(row, noise)
    except FloatingPointError:
        check_observations(row, np.ones(1, bool), step)
        raise


def list_episodes(policy: Any, count: int) -> list[Episode]:
    """Return the episodes to play, ``count`` per policy: policies play the same episodes.

    Example:
        >>> [episode[1:] for episode in list_episodes({"before": 1, "after": 2}, 2)]
        [(0, 'before'), (1, 'before'), (0, 'after'), (1, 'after')]
    """
    named = policy if isinstance(policy, Mapping) else {"": policy}
    if not named:
        raise ValueError("The mapping of policies is empty: there is nothing to record.")
    titles = {" ".join(str(title).split()): each for title, each in named.items()}
    return [Episode(each, n, title) for title, each in titles.items() for n in range(count)]


def best_median_worst(
    episodes: list[Episode], episode_return: Callable[[Episode], float]
) -> list[Episode]:
    """Return the best, the median and the worst of some episodes, with titles that say so.

    Of equal episodes the first is the best and the last the worst. The median of an even number
    is the lower of the two in the middle. Fewer than 3 episodes are returned once each.

    Example:
        >>> ranked = best_median_worst(list_episodes(None, 5), lambda e: float(e.number))
        >>> [(episode.number, episode.title) for episode in ranked]
        [(4, 'best of 5'), (2, 'median of 5'), (0, 'worst of 5')]
    """
    count = len(episodes)
    returns = [episode_return(episode) for episode in episodes]
    order = sorted(range(count), key=lambda i: -returns[i])
    ranks = {order[0]: "best"}
    if count > 2:
        ranks[order[count // 2]] = "median"
    if count > 1:
        ranks[order[-1]] = "worst"
    return [
        episodes[i]._replace(title=f"{episodes[i].title} {rank} of {count}".strip())
        for i, rank in ranks.items()
    ]
