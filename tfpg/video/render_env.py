"""Opening environments that render images, with a display where they need one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import gymnasium

from tfpg.core.messages import one_line
from tfpg.envs import EnvLike, make, open_env, render_modes
from tfpg.video.display import (
    INSTALL_GL,
    DisplayError,
    gl_library,
    offscreen_drivers,
    preload_mesa,
    virtual_display,
)
from tfpg.video.window import window_env

_MODES = ("rgb_array", "rgb_array_list", "human")
# Packages that render with OpenGL.
_OPENGL = {"mujoco", "OpenGL", "glfw", "pyglet", "moderngl", "panda3d", "pybullet"}


@contextmanager
def open_render_env(env: EnvLike) -> Iterator[gymnasium.Env]:
    """Open an environment that renders images: off-screen if it can, else from its window.

    A virtual display is started, and stopped at the end, only for an environment that cannot
    render without one or that only opens a window.

    Args:
        env: An environment id, a callable that makes an environment, or an environment.
            Environments need ``render_mode="rgb_array"`` or ``"rgb_array_list"``. A callable may
            also make one with ``"human"``.

    Yields:
        An environment that was reset and rendered once, to be sure that it works. Its ``render()``
        returns an image, or a list of them with ``"rgb_array_list"``.

    Raises:
        ValueError: The render mode is another one.
        tfpg.video.display.DisplayError: The environment needs a display, and Xvfb is missing.
        tfpg.video.window.WindowError: The environment opened no window.

    Example:
        >>> with open_render_env("CartPole-v1") as env:
        ...     env.render().shape
        (400, 600, 3)
    """
    modes: Sequence[str | None] = _modes_of(env) if isinstance(env, str) else [None]
    with ExitStack() as stack:
        yield _open(env, modes[0], modes[1:], stack)


def _open(
    env: EnvLike, mode: str | None, others: Sequence[str | None], stack: ExitStack
) -> gymnasium.Env:
    """Open an environment in a render mode, or in one of the others if it refuses that."""
    try:
        if mode != "human":
            opened = _open_off_screen(env, {"render_mode": mode} if mode else {}, stack)
            if opened.render_mode != "human":
                return opened
            stack.close()  # a window has to open on a virtual display
        build: Any = partial(make, env, render_mode="human") if isinstance(env, str) else env
        opened = stack.enter_context(window_env(build))
        _render_once(opened)
        return opened
    except Exception:
        stack.close()
        for each in others:
            with suppress(Exception):
                return _open(env, each, (), stack)
        raise


def render_images(env: gymnasium.Env) -> list[Any]:
    """Return what an environment renders now: one image, or all since the last call.

    Raises:
        ValueError: It renders nothing.

    Example:
        >>> with open_render_env("CartPole-v1") as env:
        ...     len(render_images(env))
        1
    """
    shown = env.render()
    if shown is None:
        raise ValueError(
            f"The environment rendered nothing: render() returned None with render_mode="
            f"{env.render_mode!r}. Its render() must return an image."
        )
    return list(shown) if isinstance(shown, (list, tuple)) else [shown]


def _modes_of(env_id: str) -> list[str]:
    """The render modes to try: the best of those that an environment names, or else all."""
    modes = render_modes(env_id)
    if not modes:  # made by a function: ask the environment itself
        with suppress(Exception), open_env(env_id) as env:
            modes = tuple(env.metadata.get("render_modes") or ())
    if not modes:
        return ["rgb_array", "human"]
    for mode in _MODES:
        if mode in modes:
            return [mode]
    raise ValueError(
        f"{env_id} cannot be recorded: its render modes are {', '.join(modes)}, and a video needs "
        f"one of {', '.join(_MODES)}."
    )


def _open_off_screen(env: EnvLike, kwargs: dict[str, Any], stack: ExitStack) -> gymnasium.Env:
    """Open without a display if that works, else with a virtual one."""
    try:
        with ExitStack() as drivers:
            drivers.enter_context(offscreen_drivers())
            opened = _open_checked(env, kwargs, drivers)
            stack.push(drivers.pop_all())
            return opened
    except Exception as error:
        if os.environ.get("DISPLAY") or isinstance(error, (ValueError, TypeError, ImportError)):
            raise
        try:
            stack.enter_context(virtual_display())
        except DisplayError as missing:
            raise DisplayError(f"{missing} (without a display: {one_line(error)})") from error
        try:
            return _open_checked(env, kwargs, stack)
        except Exception as second:
            if gl_library() is not None:
                raise
            raise DisplayError(
                f"Rendering failed: {one_line(error)}. If OpenGL is missing: {INSTALL_GL}"
            ) from second


def _open_checked(env: EnvLike, kwargs: dict[str, Any], stack: ExitStack) -> gymnasium.Env:
    opened = stack.enter_context(open_env(env, **kwargs))
    mode = opened.render_mode
    if mode == "human":
        if not isinstance(env, gymnasium.Env):
            return opened
        raise ValueError(
            "To record an environment with render_mode='human', pass the callable that makes it: "
            "its window has to open on a virtual display."
        )
    if mode not in _MODES:
        raise ValueError(
            f"A video needs an environment with render_mode='rgb_array', but this one has {mode!r}"
            ": gymnasium.make(id, render_mode='rgb_array')."
        )
    if os.environ.get("DISPLAY") or _OPENGL & sys.modules.keys():
        preload_mesa()
    _render_once(opened)
    return opened


def _render_once(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    render_images(env)
