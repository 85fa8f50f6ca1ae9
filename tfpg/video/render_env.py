"""Environments that render images, whatever they need for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium

from tfpg.envs import EnvLike, make, open_env, render_modes
from tfpg.video.display import (
    INSTALL_GL,
    DisplayError,
    gl_library,
    headless_sdl,
    keep_mesa_apart,
    offscreen_gl,
    virtual_display,
)
from tfpg.video.window import filmed_window

_MODES = ("rgb_array", "rgb_array_list", "human")
# What environments render with that takes OpenGL.
_OPENGL = {"mujoco", "OpenGL", "glfw", "pyglet", "moderngl", "panda3d", "pybullet"}


@contextmanager
def rendering(env: EnvLike) -> Iterator[gymnasium.Env]:
    """An environment that renders images: off-screen if it can, else from its window.

    An environment that can render without a display gets none. For one that cannot, and for one
    that only opens a window, a virtual display is started and taken down again.

    Args:
        env: An environment id, a callable making an environment, or an environment. The latter
            two have ``render_mode="rgb_array"`` or ``"rgb_array_list"``, and what a callable makes
            may have ``"human"``.

    Yields:
        A single environment, reset and rendered once to be sure. Its ``render()`` gives an image,
        or a list of them with ``"rgb_array_list"``.

    Raises:
        ValueError: Its render mode is another.
        tfpg.video.display.DisplayError: It needs a display and Xvfb is missing.
        tfpg.video.window.WindowError: It has opened no window.

    Example:
        >>> with rendering("CartPole-v1") as env:
        ...     env.render().shape
        (400, 600, 3)
    """
    mode = _mode_of(env) if isinstance(env, str) else None
    with ExitStack() as stack:
        try:
            if mode == "human":
                raise _OnlyAWindow
            made = _off_screen(env, {"render_mode": mode} if mode else {}, stack)
        except _OnlyAWindow:
            made = stack.enter_context(filmed_window(lambda: _with_a_window(env)))
            _render_once(made)
        yield made


def pictures(env: gymnasium.Env) -> list[Any]:
    """What an environment of `rendering` shows now: one image, or those since it was last asked.

    Raises:
        ValueError: It is none.

    Example:
        >>> with rendering("CartPole-v1") as env:
        ...     len(pictures(env))
        1
    """
    shown = env.render()
    if shown is None:
        raise ValueError(
            f"The environment rendered nothing: render() gave None with render_mode="
            f"{env.render_mode!r}. Mend its render()."
        )
    return list(shown) if isinstance(shown, (list, tuple)) else [shown]


class _OnlyAWindow(ValueError):
    """The environment has ``render_mode="human"``."""


def _mode_of(env_id: str) -> str:
    """The render mode to film an environment in.

    Raises:
        ValueError: It has none.
    """
    known = render_modes(env_id) or _MODES[:1]  # some say nothing
    for mode in _MODES:
        if mode in known:
            return mode
    raise ValueError(
        f"{env_id} cannot be filmed: its render modes are {', '.join(known)}, and a film needs one "
        f"of {', '.join(_MODES)}."
    )


def _with_a_window(env: Any) -> gymnasium.Env:
    return make(env, render_mode="human") if isinstance(env, str) else env()


def _off_screen(env: EnvLike, kwargs: dict[str, Any], stack: ExitStack) -> gymnasium.Env:
    """The environment, without a display if that works, and with a virtual one if it does not."""
    try:
        with ExitStack() as needs:
            needs.enter_context(headless_sdl())
            needs.enter_context(offscreen_gl())
            made = _opened(env, kwargs, needs)
            stack.push(needs.pop_all())
            return made
    except Exception as error:
        if os.environ.get("DISPLAY") or isinstance(error, (ValueError, TypeError, ImportError)):
            raise
        reason = " ".join(str(error).split())[:200]
        try:
            stack.enter_context(virtual_display())
        except DisplayError as missing:
            raise DisplayError(f"{missing} (without one: {reason})") from error
        try:
            return _opened(env, kwargs, stack)
        except Exception as still:
            if gl_library() is not None:
                raise
            raise DisplayError(
                f"Nothing renders here: {reason}. If it is OpenGL that is missing: {INSTALL_GL}"
            ) from still


def _opened(env: EnvLike, kwargs: dict[str, Any], stack: ExitStack) -> gymnasium.Env:
    made = stack.enter_context(open_env(env, **kwargs))
    mode = made.render_mode
    if mode == "human" and not isinstance(env, gymnasium.Env):
        raise _OnlyAWindow
    if mode == "human":
        raise ValueError(
            "To film an environment with render_mode='human' give the callable that makes it: its "
            "window has to open on a display of the film's."
        )
    if mode not in _MODES:
        raise ValueError(
            f"A film needs an environment with render_mode='rgb_array', and this one has {mode!r}: "
            "gymnasium.make(id, render_mode='rgb_array')."
        )
    if os.environ.get("DISPLAY") or _OPENGL & sys.modules.keys():
        keep_mesa_apart()
    _render_once(made)
    return made


def _render_once(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    pictures(env)
