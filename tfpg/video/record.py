"""Recording policies: `record` writes videos of episodes, and `frames` yields their frames."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tfpg.core.files import check_writable
from tfpg.core.messages import warn
from tfpg.core.options import checked, count
from tfpg.core.seeding import check_seed
from tfpg.envs import EnvLike
from tfpg.models.policy import as_policy, is_policy_like
from tfpg.video.drawing import DrawingOptions, FrameDrawer
from tfpg.video.encoders import Mp4
from tfpg.video.episodes import Episode, Player, best_median_worst, list_episodes
from tfpg.video.frames import letterbox, tile
from tfpg.video.render_env import open_render_env
from tfpg.video.window import WindowEnv
from tfpg.video.writer import check_suffix, video_writer

_MIN_FPS = 0.002  # a GIF shows a frame for at most 655 seconds


class Recording(NamedTuple):
    """The result of `record`."""

    path: Path
    frames: int
    episode_returns: list[float]
    episode_lengths: list[int]
    paths: tuple[Path, ...] = ()


def record(
    policy: Any,
    env: EnvLike,
    path: str | os.PathLike | Sequence[str | os.PathLike],
    episodes: int = 1,
    *,
    seed: int | None = None,
    deterministic: bool = True,
    max_steps: int | None = None,
    fps: float | None = None,
    speed: float = 1.0,
    max_seconds: float | None = None,
    overlay: str | bool | Sequence[str] = "caption",
    action_names: Sequence[str] | None = None,
    scale: float | None = None,
    crop: Sequence[int] | None = None,
    grid: bool | int | None = None,
    rank: bool = False,
) -> Recording:
    """Play episodes and record them, with one frame for every reset and every step.

    Frames are encoded while the next ones are made, so memory does not grow with the video. An
    environment that renders off-screen needs no display. If it needs a display, or only opens a
    window, a virtual display is started and stopped again.

    Args:
        policy: A Keras model, an agent, a `tfpg.Policy`, or any callable that maps observations
            ``[1, ...]`` to actions ``[1, ...]``. A mapping from titles to policies records several
            of them playing the same episodes, for example one model before and after training.
        env: An environment id, a callable that makes an environment, or an environment.
            Environments need ``render_mode="rgb_array"`` or ``"rgb_array_list"``. A callable may
            also make one with ``"human"``: then its window is recorded.
        path: A file in an existing folder, or several that are written in one pass. The suffix is
            ``.mp4`` (H.264), ``.webm`` (VP9), ``.gif`` (looping) or ``.png`` (a contact sheet of
            twelve frames).
        episodes: Number of episodes per policy, at least 1.
        seed: Seed of resets and sampled actions. None: a random one. The episodes are those that
            `tfpg.evaluate` plays with the same seed, except in environments that Gymnasium
            vectorizes itself, whose resets share one generator.
        deterministic: Whether to take the most probable action instead of a sample.
        max_steps: Number of steps after which an episode is cut off. None: the environment's limit.
        fps: Frames per second. None: the environment's ``metadata["render_fps"]``, or 30.
        speed: Playback speed factor. ``fps * speed`` must be at least 0.002. Above 60 (GIF: 50),
            frames are dropped.
        max_seconds: Maximum length of the video, in seconds.
        overlay: What to draw: one or more of ``"caption"`` (step and return so far), ``"action"``
            (by name), ``"bars"`` (action probabilities or Q-values), ``"value"``, ``"entropy"``,
            ``"epsilon"`` and ``"saliency"`` (the parts of the image that matter). True: everything
            the policy has. False: nothing.
        action_names: Names of the actions. None: those known for the environment.
        scale: Scale factor of the picture. Integers keep its pixels sharp. None: 1, or a larger
            integer if both sides have fewer than 128 pixels.
        crop: The part of the picture to show, before it is scaled: left, top, right and bottom, in
            pixels.
        grid: Whether to show all episodes side by side, or the number of columns of the grid. With
            False they follow one another. None: side by side with several policies or with
            ``rank``.
        rank: Play all episodes first, and record the best, the median and the worst of each policy.

    Returns:
        A `Recording` with ``path`` (the first), ``frames`` (their number), ``episode_returns`` and
        ``episode_lengths`` (as far as they were recorded), and ``paths``.

    Raises:
        ValueError: A suffix, a number, the render mode, the overlay or the model does not fit.
        FileNotFoundError, PermissionError: The folder of ``path`` is missing or not writable.
        tfpg.errors.EnvError: The environment raised an exception, or returned something wrong.
        tfpg.video.writer.VideoWriteError: The video could not be written. No part of it is left.
        tfpg.video.display.DisplayError: A display is needed and Xvfb is missing.
        tfpg.video.window.WindowError: The environment opened no window.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     video = tfpg.record(model, "CartPole-v1", f"{folder}/cartpole.mp4", max_steps=5)
        >>> video.frames
        6
    """
    is_single = isinstance(path, (str, os.PathLike))
    paths = [check_suffix(each) for each in ([path] if is_single else path)]  # type: ignore
    if not paths:
        raise ValueError("path is an empty list: there is no file to write.")
    for each in paths:
        check_writable(each)
    for name, number in (("fps", fps), ("speed", speed), ("max_seconds", max_seconds)):
        if number is not None and not 0 < number < np.inf:
            raise ValueError(f"{name} must be positive, but it is {number!r}.")
    options = DrawingOptions(overlay, scale, crop, action_names)
    with ExitStack() as stack:
        shown = EpisodeFrames(
            stack, policy, env, episodes, seed, deterministic, max_steps, options, grid, rank
        )
        if fps is not None and fps > Mp4.max_fps:
            warn(
                f"fps={fps:g} exceeds the maximum of 60 (GIF: 50). Frames are dropped to keep the "
                "playback speed."
            )
        fps = (fps or shown.fps) * speed
        if fps < _MIN_FPS:
            raise ValueError(
                f"fps times speed must be at least {_MIN_FPS}, but it is {fps:g}: no file shows a "
                "frame for so long."
            )
        max_frames = None if max_seconds is None else max(1, round(max_seconds * fps))
        written = 0
        with video_writer(paths, fps) as write:
            for written, frame in enumerate(islice(shown, max_frames), 1):  # noqa: B007
                write(frame)
        if written > 1 and shown.is_blank():
            warn(
                f"All frames of {str(paths[0])!r} show the same single color: the environment may "
                "not draw without a display."
            )
    outcomes = [shown.outcomes[i] for i in sorted(shown.outcomes)]
    returns, lengths = [x for x, _ in outcomes], [n for _, n in outcomes]
    return Recording(paths[0], written, returns, lengths, tuple(paths))


def frames(
    policy: Any,
    env: EnvLike,
    episodes: int = 1,
    *,
    seed: int | None = None,
    deterministic: bool = True,
    max_steps: int | None = None,
    overlay: str | bool | Sequence[str] = "caption",
    action_names: Sequence[str] | None = None,
    scale: float | None = None,
    crop: Sequence[int] | None = None,
    grid: bool | int | None = None,
    rank: bool = False,
) -> Iterator[np.ndarray]:
    """Yield the frames that `record` would write, one by one.

    The arguments are those of `record`.

    Yields:
        Frames, ``[height, width, 3]`` uint8, all of one size.

    Raises:
        ValueError, EnvError, DisplayError, WindowError: As in `record`, when a frame is requested.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> [frame.shape for frame in tfpg.frames(model, "CartPole-v1", max_steps=1, overlay=False)]
        [(400, 600, 3), (400, 600, 3)]
    """
    options = DrawingOptions(overlay, scale, crop, action_names)
    with ExitStack() as stack:
        yield from EpisodeFrames(
            stack, policy, env, episodes, seed, deterministic, max_steps, options, grid, rank
        )


class EpisodeFrames:
    """The frames of all episodes of a video, one after another or side by side.

    The stack closes the environments. The other arguments are those of `record`.

    Attributes:
        fps: Frames per second of the environment.
        outcomes: Return and length of each episode, up to the frames that were taken.
    """

    def __init__(
        self,
        stack: ExitStack,
        policy: Any,
        env: EnvLike,
        number: int,
        seed: int | None,
        deterministic: bool,
        max_steps: int | None,
        options: DrawingOptions,
        grid: bool | int | None,
        rank: bool,
    ):
        number = checked("episodes", number, count)
        max_steps = None if max_steps is None else checked("max_steps", max_steps, count)
        seed = check_seed(seed)
        episodes = list_episodes(policy, number)
        policies = len(episodes) // number
        if grid is None:
            grid = rank or policies > 1
        elif not isinstance(grid, bool):
            grid = checked("grid", grid, count)
        first = stack.enter_context(open_render_env(env))
        self.fps = float(first.metadata.get("render_fps") or 30)
        as_players = {each.title: _as_player(each.policy, first) for each in episodes}
        episodes = [each._replace(policy=as_players[each.title]) for each in episodes]

        def player(episode: Episode, made: gymnasium.Env = first) -> Player:
            return Player(episode.policy, made, seed, deterministic, max_steps)

        if rank:
            groups = [episodes[i : i + number] for i in range(0, len(episodes), number)]
            play = lambda each: player(each).episode_return(each.number)  # noqa: E731
            episodes = [each for group in groups for each in best_median_worst(group, play)]
        elif grid and number > 1:
            episodes = [each.numbered() for each in episodes]
        titles = [each.title for each in episodes]
        self.outcomes: dict[int, tuple[float, int]] = {}
        self._drawers: list[FrameDrawer] = []
        envs, streams = [first], []
        for i, each in enumerate(episodes):
            if grid and i > 0:
                envs.append(stack.enter_context(_open_another(env, envs)))
            self._drawers.append(FrameDrawer(each.policy, envs[-1], options, each.title, titles))
            streams.append(self._frames(i, player(each, envs[-1]), each.number))
        columns = _columns(grid, len(episodes), policies)
        self._shown = side_by_side(streams, columns) if grid else one_by_one(streams)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._shown

    def _frames(self, i: int, player: Player, number: int) -> Iterator[np.ndarray]:
        for step in player.rendered_steps(number):
            self.outcomes[i] = step.episode_return, step.step
            yield self._drawers[i].draw(step)

    def is_blank(self) -> bool:
        """Return whether all pictures so far had the same single color."""
        colors = {self._drawers[i].color for i in self.outcomes}
        return len(colors) == 1 and None not in colors


def one_by_one(streams: Iterable[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Yield the frames of all streams one after another, in the size of the first frame.

    Example:
        >>> streams = [iter([np.zeros((2, 2, 3), np.uint8)]), iter([np.ones((4, 4, 3), np.uint8)])]
        >>> [frame.shape for frame in one_by_one(streams)]
        [(2, 2, 3), (2, 2, 3)]
    """
    size = None
    for frame in chain.from_iterable(streams):
        size = size or frame.shape[:2]
        yield letterbox(frame, *size)


def side_by_side(streams: Sequence[Iterator[np.ndarray]], columns: int) -> Iterator[np.ndarray]:
    """Yield the frames of all streams in a grid, until the last one has ended.

    A stream that has ended shows its last frame at half its brightness.

    Args:
        streams: Streams of at least one frame each. All are shown in the size of the first frame.
        columns: Number of streams in a row.

    Example:
        >>> frame = np.full((2, 2, 3), 200, np.uint8)
        >>> grid = side_by_side([iter([frame]), iter([frame, frame])], columns=2)
        >>> [int(frame[0, 0, 0]) for frame in grid]
        [200, 100]
    """
    shown = [next(stream) for stream in streams]
    size = shown[0].shape[:2]
    shown = [letterbox(frame, *size) for frame in shown]
    running = list(range(len(streams)))
    while running:
        yield tile(shown, columns)
        for i in list(running):
            frame = next(streams[i], None)
            if frame is None:
                running.remove(i)
                shown[i] = shown[i] // 2
            else:
                shown[i] = letterbox(frame, *size)


def _as_player(policy: Any, env: gymnasium.Env) -> Any:
    """A `tfpg.Policy`, made once for all episodes, or the callable itself."""
    return as_policy(policy, env) if is_policy_like(policy) or not callable(policy) else policy


@contextmanager
def _open_another(env: EnvLike, others: Sequence[gymnasium.Env]) -> Iterator[gymnasium.Env]:
    """Open one more environment, to play at the same time as the others."""
    if isinstance(others[0], WindowEnv):
        raise ValueError(
            "Only one window can be recorded at a time: grid=False shows the episodes one after "
            "another."
        )
    one_env = (
        "Each episode of a grid needs an environment of its own: pass an id, or a callable that "
        "makes a new one each time, or grid=False."
    )
    if isinstance(env, gymnasium.Env):
        raise ValueError(one_env)
    with open_render_env(env) as made:
        if any(made.unwrapped is other.unwrapped for other in others):
            raise ValueError(one_env)
        yield made


def _columns(grid: bool | int, count: int, policies: int) -> int:
    """The number of columns of a grid. With several policies each has a row of its own."""
    if not isinstance(grid, bool):
        return grid
    if 1 < policies < count:
        return count // policies
    return count if count <= 3 else math.ceil(math.sqrt(count))
