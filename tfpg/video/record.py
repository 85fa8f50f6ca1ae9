"""Filming policies: `record` plays episodes and writes what is seen, `frames` gives it."""

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
from tfpg.core.seeding import check_seed
from tfpg.envs import EnvLike
from tfpg.rollouts.evaluation import check_count
from tfpg.video.drawing import Artist, Look, look_of
from tfpg.video.episodes import Player, Take, as_player, ranked, takes_of
from tfpg.video.frames import dimmed, fitted, tiled
from tfpg.video.render_env import rendering
from tfpg.video.window import WindowEnv
from tfpg.video.writer import check_suffix, films


class Film(NamedTuple):
    """What `record` wrote."""

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
    scale: float = 1.0,
    crop: Sequence[int] | None = None,
    grid: bool | int | None = None,
    rank: bool = False,
) -> Film:
    """Plays episodes and films them, a frame for every reset and every step.

    Frames go to the encoder as they come, so memory does not grow with the film, and it encodes
    while the next are made. An environment that can render without a display needs none; for one
    that cannot, or that only opens a window, a virtual display is started and taken down again.

    Args:
        policy: A Keras model, an agent, a `tfpg.Policy`, or any callable that maps observations
            ``[1, ...]`` to actions ``[1, ...]``. Or a mapping from titles to several of them,
            which play the same episodes: two models side by side, or one as it learned.
        env: An environment id, a callable making an environment, or an environment; the latter
            two with ``render_mode="rgb_array"``, or ``"rgb_array_list"``, or a callable with
            ``"human"``, whose window is filmed.
        path: Ends in ``.mp4`` (H.264), ``.webm`` (VP9), ``.gif`` (looping) or ``.png`` (twelve
            frames on a sheet). Several are written in one pass. Their folders exist.
        episodes: How many of each policy, at least 1.
        seed: Of the resets and the samples. None: fresh ones. Its episodes are those that
            `tfpg.evaluate` plays with the same seed, except in environments that Gymnasium
            vectorizes itself, whose resets share one generator.
        deterministic: Play the most probable action; else sample.
        max_steps: Where an episode is cut. None: the environment's own limit.
        fps: Frames per second. None: the environment's ``metadata["render_fps"]``, or 30.
        speed: How many times faster than that to play. Beyond 60 frames a second, of a GIF 50,
            frames are left out.
        max_seconds: Where the film is cut.
        overlay: What to write under the picture: of ``"caption"`` (step and return so far),
            ``"action"`` (by name), ``"bars"`` (of action probabilities or Q-values), ``"value"``,
            ``"entropy"``, ``"epsilon"``, and ``"saliency"``, where a policy looks, on the picture.
            True: all that the policy has. False: nothing.
        action_names: Of the actions. None: what is known of the environment's.
        scale: How much larger to show the picture; whole factors keep its pixels sharp.
        crop: What to show of it, before that: left, top, right and bottom, in pixels.
        grid: All episodes side by side; a number says how many in a row. False: one after
            another. None: side by side where there are several policies, or with ``rank``.
        rank: Play the episodes first, and film each policy's best, median and worst.

    Returns:
        A `Film`: ``path`` (the first), ``frames``, ``episode_returns`` and ``episode_lengths``,
        as far as they were filmed, and ``paths``.

    Raises:
        ValueError: A suffix, a number, the render mode, the overlay or the model does not fit.
        FileNotFoundError, PermissionError: The folder of ``path`` is missing or not writable.
        tfpg.video.writer.VideoWriteError: The film could not be written; nothing is left.
        tfpg.video.display.DisplayError: A display is needed and Xvfb is missing.
        tfpg.video.window.WindowError: The environment opened no window.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     film = tfpg.record(model, "CartPole-v1", f"{folder}/cartpole.mp4", max_steps=5)
        >>> film.frames
        6
    """
    single = isinstance(path, (str, os.PathLike))
    paths = [check_suffix(each) for each in ([path] if single else path)]  # type: ignore
    if not paths:
        raise ValueError("path is an empty list: nothing to write.")
    for each in paths:
        check_writable(each)
    for name, number in (("speed", speed), ("max_seconds", max_seconds)):
        if number is not None and not 0 < number < np.inf:
            raise ValueError(f"{name} must be above 0, and it is {number!r}.")
    if fps is not None and not 0 < fps < np.inf:
        raise ValueError(f"fps must be above 0, and it is {fps!r}.")
    look = look_of(overlay, scale, crop, action_names)
    with ExitStack() as stack:
        reel = Reel(stack, policy, env, episodes, seed, deterministic, max_steps, look, grid, rank)
        fps = (reel.fps if fps is None else fps) * speed
        # A film of some seconds has a frame at least.
        most = None if max_seconds is None else max(1, round(max_seconds * fps))
        count = 0
        with films(paths, fps) as write:
            for count, frame in enumerate(islice(reel, most), 1):  # noqa: B007
                write(frame)
    outcomes = [reel.outcomes[i] for i in sorted(reel.outcomes)]
    returns, lengths = [x for x, _ in outcomes], [n for _, n in outcomes]
    return Film(paths[0], count, returns, lengths, tuple(paths))


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
    scale: float = 1.0,
    crop: Sequence[int] | None = None,
    grid: bool | int | None = None,
    rank: bool = False,
) -> Iterator[np.ndarray]:
    """The frames that `record` would write, as they come, for those who animate or draw on them.

    Args:
        policy: See `record`, here and below.
        env: What it plays in.
        episodes: How many.
        seed: Of the resets and the samples.
        deterministic: Play the most probable action.
        max_steps: Where an episode is cut.
        overlay: What to write under the picture.
        action_names: Of the actions.
        scale: How much larger to show the picture.
        crop: What to show of it.
        grid: Whether episodes are side by side.
        rank: Film the best, the median and the worst.

    Yields:
        ``[height, width, 3]`` uint8, all of one size.

    Raises:
        ValueError, DisplayError, WindowError: As `record`, when the first frame is asked for.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> shown = tfpg.frames(model, "CartPole-v1", max_steps=5, overlay=False)
        >>> [frame.shape for frame in shown][-1]
        (400, 600, 3)
    """
    look = look_of(overlay, scale, crop, action_names)
    with ExitStack() as stack:
        yield from Reel(
            stack, policy, env, episodes, seed, deterministic, max_steps, look, grid, rank
        )


class Reel:
    """The frames of a film, in the order in which they are shown.

    Args:
        stack: Closes the environments.
        policy: See `record`, here and below.
        env: What it plays in.
        episodes: How many.
        seed: Of the resets and the samples.
        deterministic: Play the most probable action.
        max_steps: Where an episode is cut.
        look: How it looks.
        grid: Whether episodes are side by side.
        rank: Film the best, the median and the worst.

    Attributes:
        fps: Frames per second of the environment.
        outcomes: The return and the steps of each episode, as far as its frames were taken.
    """

    def __init__(
        self,
        stack: ExitStack,
        policy: Any,
        env: EnvLike,
        episodes: int,
        seed: int | None,
        deterministic: bool,
        max_steps: int | None,
        look: Look,
        grid: bool | int | None,
        rank: bool,
    ):
        episodes = check_count("episodes", episodes)
        max_steps = None if max_steps is None else check_count("max_steps", max_steps)
        seed = check_seed(seed)
        takes = takes_of(policy, episodes)
        policies = len(takes) // episodes
        if grid is None:
            grid = rank or policies > 1
        elif not isinstance(grid, bool):
            grid = check_count("grid", grid)
        first = stack.enter_context(rendering(env))
        self.fps = float(first.metadata.get("render_fps") or 30)
        played = {take.title: as_player(take.policy, first) for take in takes}
        takes = [take._replace(policy=played[take.title]) for take in takes]

        def player(take: Take, made: gymnasium.Env = first) -> Player:
            return Player(take.policy, made, seed, deterministic, max_steps)

        if rank:
            groups = [takes[i : i + episodes] for i in range(0, len(takes), episodes)]
            outcome = lambda take: player(take).outcome(take.episode)  # noqa: E731
            takes = [take for group in groups for take in ranked(group, outcome)]
        elif grid and episodes > 1:
            takes = [_numbered(take) for take in takes]
        self.outcomes: dict[int, tuple[float, int]] = {}
        envs = [first] if grid else [first] * len(takes)
        if grid:
            for _ in takes[1:]:
                envs[len(envs) :] = [stack.enter_context(_another(env, envs))]
        titles = [take.title for take in takes]
        streams = [
            self._frames(
                i, take, Artist(take.policy, made, look, take.title, titles), player(take, made)
            )
            for i, (take, made) in enumerate(zip(takes, envs, strict=True))
        ]
        self._shown = in_turn(streams)
        if grid:
            self._shown = side_by_side(streams, _columns(grid, len(takes), policies))

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._shown

    def _frames(self, i: int, take: Take, artist: Artist, player: Player) -> Iterator[np.ndarray]:
        for shot in player.shots(take.episode):
            self.outcomes[i] = shot.episode_return, shot.step
            yield artist.draw(shot)


def in_turn(streams: Iterable[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """The frames of all streams one after another, in the size of the very first.

    Example:
        >>> streams = [iter([np.zeros((2, 2, 3), np.uint8)]), iter([np.ones((4, 4, 3), np.uint8)])]
        >>> [frame.shape for frame in in_turn(streams)]
        [(2, 2, 3), (2, 2, 3)]
    """
    size = None
    for frame in chain.from_iterable(streams):
        size = size or frame.shape[:2]
        yield fitted(frame, *size)


def side_by_side(streams: Sequence[Iterator[np.ndarray]], columns: int) -> Iterator[np.ndarray]:
    """The frames of all streams at the same time, until the last has ended.

    One that has ended shows its last frame, dimmed.

    Args:
        streams: Each has a frame at least. Their sizes are that of the first.
        columns: Streams in a row.

    Example:
        >>> frame = np.full((2, 2, 3), 200, np.uint8)
        >>> films = side_by_side([iter([frame]), iter([frame, frame])], columns=2)
        >>> [int(film[0, 0, 0]) for film in films]
        [200, 100]
    """
    shown = [next(stream) for stream in streams]
    size = shown[0].shape[:2]
    shown = [fitted(frame, *size) for frame in shown]
    running = set(range(len(streams)))
    while running:
        yield tiled(shown, columns)
        for i in sorted(running):
            frame = next(streams[i], None)
            if frame is None:
                running.discard(i)
                shown[i] = dimmed(shown[i])
            else:
                shown[i] = fitted(frame, *size)


@contextmanager
def _another(env: EnvLike, others: Sequence[gymnasium.Env]) -> Iterator[gymnasium.Env]:
    """A further environment like the others, to play in at the same time.

    Raises:
        ValueError: There can be only one.
    """
    if isinstance(others[0], WindowEnv):
        raise ValueError("A window is filmed alone: grid=False shows one episode after another.")
    alone = "Episodes side by side need an environment each: give an id or a callable that makes "
    alone += "a new one each time, or grid=False."
    if isinstance(env, gymnasium.Env):
        raise ValueError(alone)
    with rendering(env) as made:
        if any(made is other for other in others):
            raise ValueError(alone)
        yield made


def _numbered(take: Take) -> Take:
    return take._replace(title=f"{take.title} episode {take.episode + 1}".strip())


def _columns(grid: bool | int, count: int, policies: int) -> int:
    """How many of the episodes are in a row: those of a policy, where there are several."""
    if not isinstance(grid, bool):
        return grid
    if 1 < policies < count:
        return count // policies
    return count if count <= 3 else math.ceil(math.sqrt(count))
