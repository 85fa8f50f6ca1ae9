"""Filming a policy: `record` plays episodes and writes what the environment renders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tfpg.envs import EnvLike, open_env
from tfpg.errors import check_observations, check_rewards
from tfpg.evaluation import actor_for, check_count
from tfpg.files import check_writable
from tfpg.heads import Head
from tfpg.playing import NO_LIMIT_STEPS, Noise, warn_of_the_cut
from tfpg.rendering.display import DisplayError, headless_sdl, virtual_display
from tfpg.rendering.video import VideoWriter, check_suffix
from tfpg.seeding import check_seed, evaluation_rng, reset_seed
from tfpg.types import map_arrays


class Film(NamedTuple):
    """What `record` wrote."""

    path: Path
    frames: int
    episode_returns: list[float]
    episode_lengths: list[int]


def record(
    policy: Any,
    env: EnvLike,
    path: str | os.PathLike,
    episodes: int = 1,
    *,
    seed: int | None = None,
    deterministic: bool = True,
    max_steps: int | None = None,
    fps: float | None = None,
) -> Film:
    """Plays episodes and films them, a frame for every reset and every step.

    Frames go to the encoder as they come, so memory does not grow with the film. An environment
    that can render without a display needs none; for one that cannot, a virtual display is
    started and taken down again.

    Args:
        policy: A Keras model, an agent, a `tfpg.Policy`, or any callable that maps observations
            ``[1, ...]`` to actions ``[1, ...]``.
        env: An environment id, a callable making an environment, or an environment; the latter
            two with ``render_mode="rgb_array"``.
        path: Ends in ``.mp4`` (H.264) or ``.gif`` (looping). Its folder exists.
        episodes: How many, at least 1, one after another.
        seed: Of the resets and the samples. None: fresh ones. Its episodes are those that
            `tfpg.evaluate` plays with the same seed, except in environments that Gymnasium
            vectorizes itself, whose resets share one generator.
        deterministic: Play the most probable action; else sample.
        max_steps: Where an episode is cut. None: the environment's own limit.
        fps: Frames per second. None: the environment's ``metadata["render_fps"]``, or 30.

    Returns:
        A `Film`: ``path``, ``frames``, ``episode_returns`` and ``episode_lengths``.

    Raises:
        ValueError: The suffix, a number, the render mode or the model does not fit.
        FileNotFoundError, PermissionError: The folder of ``path`` is missing or not writable.
        tfpg.rendering.video.VideoWriteError: The film could not be written; nothing is left.
        tfpg.rendering.display.DisplayError: A display is needed and Xvfb is missing.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     film = tfpg.record(model, "CartPole-v1", f"{folder}/cartpole.mp4", max_steps=5)
        >>> film.frames
        6
    """
    path = check_suffix(path)
    check_writable(path)
    episodes = check_count("episodes", episodes)
    max_steps = None if max_steps is None else check_count("max_steps", max_steps)
    seed = check_seed(seed)
    with rendering(env) as made:
        act, head = actor_for(policy, made, deterministic)
        returns, lengths = [], []
        if fps is None:
            fps = made.metadata.get("render_fps") or 30
        with VideoWriter(path, fps) as video:
            for episode in range(episodes):
                rng = evaluation_rng(seed, episode)
                rewards = []
                for frame, reward in _play(made, act, head, rng, max_steps):
                    video.write(frame)
                    rewards.append(reward)
                returns.append(float(sum(rewards)))
                lengths.append(len(rewards) - 1)
    return Film(path, video.frames, returns, lengths)


@contextmanager
def rendering(env: EnvLike) -> Iterator[gymnasium.Env]:
    """An environment that renders images, with a virtual display only if it needs one.

    Yields:
        A single environment with ``render_mode="rgb_array"``, rendered once to be sure.

    Raises:
        ValueError: Its render mode is another.
        tfpg.rendering.display.DisplayError: It needs a display and Xvfb is missing.

    Example:
        >>> with rendering("CartPole-v1") as env:
        ...     env.render().shape
        (400, 600, 3)
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(headless_sdl())
            made = stack.enter_context(_rendered_once(env))
        except Exception as error:
            stack.close()
            if os.environ.get("DISPLAY") or isinstance(error, (ValueError, TypeError, ImportError)):
                raise
            try:
                stack.enter_context(virtual_display())
            except DisplayError as missing:
                reason = " ".join(str(error).split())[:200]
                raise DisplayError(f"{missing} (without one: {reason})") from error
            made = stack.enter_context(_rendered_once(env))
        yield made


@contextmanager
def _rendered_once(env: EnvLike) -> Iterator[gymnasium.Env]:
    with open_env(env, render_mode="rgb_array") as made:
        if made.render_mode != "rgb_array":
            raise ValueError(
                f"A film needs an environment with render_mode='rgb_array', and this one has "
                f"{made.render_mode!r}: gymnasium.make(id, render_mode='rgb_array')."
            )
        made.reset(seed=0)
        made.render()
        yield made


def _play(
    env: gymnasium.Env,
    act: Callable,
    head: Head | None,
    rng: np.random.Generator,
    max_steps: int | None,
) -> Iterator[tuple[Any, float]]:
    own = env.spec and env.spec.max_episode_steps
    limit = max_steps or own or NO_LIMIT_STEPS
    real = np.ones(1, bool)
    observation, _ = env.reset(seed=reset_seed(rng))
    noise = (lambda: None) if head is None else Noise(head, [rng])
    yield env.render(), 0.0
    for t in range(limit):
        row = map_arrays(lambda x: np.asarray(x)[np.newaxis], observation)
        try:
            action = act(row, noise()).env_actions[0]
        except FloatingPointError:
            check_observations(row, real, t)
            raise
        observation, reward, terminated, truncated, _ = env.step(action)
        check_rewards(np.asarray([reward], float), real, t)
        yield env.render(), float(reward)
        if terminated or truncated:
            return
    if not (max_steps or own):
        warn_of_the_cut(limit)
