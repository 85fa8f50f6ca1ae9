"""Atari games under the protocol of the DQN papers.

An id that starts with ``ALE/`` means the same wherever tfpg takes one:

==============  ================================================================================
observation     the last 4 observed frames, ``[84, 84, 4]`` uint8, grayscale, newest last; zeros
                before the first one of an episode
step            the action is repeated for 4 frames; the maximum of the last two is observed
actions         the minimal set of the game, never repeated at random
episode         starts with 0 to 30 no-ops, ends with the game, is truncated after 108,000 frames
reward          the points of the game, not clipped
lives           in ``info["lives"]``; losing one does not end the episode
==============  ================================================================================

Clipping rewards and ending episodes when a life is lost are options of agents.

ALE's own vector environment, in C++, plays many games. A single game, for videos, is composed of
Gymnasium's wrappers, and shows the same pixels for the same seed.

Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015,
https://www.nature.com/articles/nature14236; Bellemare et al., "The Arcade Learning Environment",
2013, https://arxiv.org/abs/1207.4708.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

MAX_FRAMES = 108_000  # half an hour
FRAMESKIP = 4
NOOP_MAX = 30
STACK = 4

_FRAMES_PER_SECOND = 60
_INSTALL = "pip install ale-py opencv-python-headless"


def register() -> None:
    """Register the ``ALE/`` ids with Gymnasium.

    Raises:
        ImportError: ale-py is not installed.

    Example:
        >>> register()
        >>> "ALE/Pong-v5" in gymnasium.registry
        True
    """
    try:
        import ale_py
    except ImportError as error:
        raise ImportError(f"Atari games need ale-py: {_INSTALL}") from error
    # Otherwise it prints a welcome message.
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


def make_game(
    env_id: str,
    *,
    frameskip: int = FRAMESKIP,
    noop_max: int = NOOP_MAX,
    max_num_frames_per_episode: int = MAX_FRAMES,
    **kwargs: Any,
) -> gymnasium.Env:
    """Make a single game, which renders the screen in color, ``[210, 160, 3]``.

    Args:
        env_id: An id such as ``"ALE/Pong-v5"``.
        frameskip: Number of frames in a step.
        noop_max: Largest number of no-ops at the start of an episode.
        max_num_frames_per_episode: Number of frames, without the no-ops, after which an episode is
            truncated.
        **kwargs: Passed to ALE's ``AtariEnv``, for example ``render_mode="rgb_array"``.

    Returns:
        The environment. A seed starts the same episode as in `AtariGames`.

    Raises:
        ImportError: ale-py or OpenCV is not installed.

    Example:
        >>> env = make_game("ALE/Pong-v5", render_mode="rgb_array")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, env.render().shape
        ((84, 84, 4), (210, 160, 3))
        >>> env.close()
    """
    register()
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise ImportError(f"A single Atari game needs OpenCV: {_INSTALL}") from error
    # ALE's own limit would count the no-ops, unlike that of its vector environment.
    protocol = {"repeat_action_probability": 0.0, "max_num_frames_per_episode": None}
    env = gymnasium.make(env_id, frameskip=1, **{**protocol, **kwargs})
    env = _SeededStart(env, noop_max)
    env = wrappers.AtariPreprocessing(env, noop_max=0, frame_skip=frameskip)
    env = wrappers.FrameStackObservation(env, STACK, padding_type="zero")
    space = _channels_last(env.observation_space)
    env = wrappers.TransformObservation(env, lambda x: np.moveaxis(x, 0, -1), space)
    env = wrappers.TimeLimit(env, max_num_frames_per_episode // frameskip)
    env.metadata = {**env.metadata, "render_fps": _FRAMES_PER_SECOND / frameskip}
    return env


class _SeededStart(gymnasium.Wrapper):
    """Seeds a game and draws its no-ops as ALE's vector environment does."""

    def __init__(self, env: gymnasium.Env, noop_max: int):
        super().__init__(env)
        self._noop_max = noop_max
        self._rng = np.random.RandomState()

    def reset(self, *, seed=None, options=None):
        game: Any = self.env.unwrapped
        if seed is not None:
            seed = seed % 2**31
            self._rng = np.random.RandomState(seed)
            game.ale.setInt("random_seed", seed)
            game.load_game()
        observation, info = self.env.reset(options=options)
        # Both use the Mersenne Twister. libstdc++ scales its numbers like this.
        drawn = int(self._rng.randint(2**32, dtype=np.uint32))
        for _ in range(drawn * (self._noop_max + 1) >> 32):
            observation, _, terminated, _, info = self.env.step(0)
            if terminated:
                observation, info = self.env.reset(options=options)
        return observation, info


class AtariGames(VectorEnv):
    """A vector of games, which does not reset itself (autoreset mode DISABLED).

    Args:
        env_id: An id such as ``"ALE/Pong-v5"``.
        num_envs: Number of games, N.
        noop_max: Largest number of no-ops at the start of an episode.
        **kwargs: Passed to ALE's ``AtariVectorEnv``, for example ``num_threads=4``.

    Attributes:
        frame_stack: Number of frames in an observation, on its last axis. All but the newest are
            those of the previous observation.
        takes_seeds: Each game has its own generator, and `reset` takes a seed for each.
        slow_seeds: A reset with a seed is much slower than one without, because ALE loads the
            game again.

    Raises:
        ImportError: ale-py is not installed.

    Example:
        >>> envs = AtariGames("ALE/Pong-v5", num_envs=2)
        >>> observations, infos = envs.reset(seed=[7, 8])
        >>> observations.shape, infos["lives"].shape
        ((2, 84, 84, 4), (2,))
        >>> envs.close()
    """

    takes_seeds = True
    slow_seeds = True

    def __init__(self, env_id: str, num_envs: int, *, noop_max: int = NOOP_MAX, **kwargs: Any):
        register()
        from ale_py.vector_env import AtariVectorEnv

        spec = gymnasium.spec(env_id)
        protocol = {
            "max_num_frames_per_episode": MAX_FRAMES,
            "frameskip": FRAMESKIP,
            "stack_num": STACK,
            "reward_clipping": False,
            "use_fire_reset": False,
        }
        kwargs = {**protocol, **kwargs}
        # ALE draws a number below noop_max. In this mode a game resets itself in the step after
        # its last one, but only if it was not reset before.
        self._games: Any = AtariVectorEnv(
            spec.kwargs["game"],
            num_envs,
            noop_max=noop_max + 1,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            **kwargs,
        )
        steps = kwargs["max_num_frames_per_episode"] // kwargs["frameskip"]
        self.spec = dataclasses.replace(spec, max_episode_steps=steps)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.num_envs = num_envs
        self.frame_stack = kwargs["stack_num"]
        self.single_observation_space = _channels_last(self._games.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = self._games.single_action_space
        self.action_space = self._games.action_space

    def reset(self, *, seed=None, options=None):
        """Reset all games, or those of a mask.

        Args:
            seed: A seed for each game, or None to continue with its generator; or an integer, to
                which the index of each game is added.
            options: ``{"reset_mask": [N] bool}`` leaves the other games as they are.

        Returns:
            Observations ``[N, 84, 84, 4]``, and infos.
        """
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if seed is None or isinstance(seed, (int, np.integer)):
            seed = [None if seed is None else int(seed) + n for n in range(self.num_envs)]
        seeds = np.array([-1 if s is None else int(s) % 2**31 for s in seed])[mask]
        observations, infos = self._games.reset(seed=seeds, options={"reset_mask": mask})
        return np.moveaxis(observations, 1, -1), infos

    def step(self, actions):
        """Step all games.

        Returns:
            Observations ``[N, 84, 84, 4]``, rewards, terminated and truncated ``[N]``, and infos.

        Raises:
            ValueError: An action is not in the action space.
        """
        actions = np.asarray(actions)
        if not self.action_space.contains(actions):
            # ALE would wait forever for the game that refused it.
            raise ValueError(
                f"Expected {self.num_envs} actions in {self.single_action_space}, but got "
                f"{actions}."
            )
        observations, rewards, terminated, truncated, infos = self._games.step(actions)
        observations = np.moveaxis(observations, 1, -1)
        return observations, rewards.astype(np.float64), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        self._games = None


def _channels_last(space: gymnasium.Space) -> spaces.Box:
    assert isinstance(space, spaces.Box)
    return spaces.Box(0, 255, (*space.shape[1:], space.shape[0]), np.uint8)
