"""Environments that only know how to open a window, filmed from the display it is on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium
import numpy as np

from tfpg.video.display import close, connect, environment, keep_mesa_apart, virtual_display

# A window larger than the screen cannot be seen whole.
_SCREEN = (2560, 1600)
# Seconds in which a window must have opened after a reset.
_PATIENCE = 5.0


class WindowError(RuntimeError):
    """There is no window to film."""


@contextmanager
def filmed_window(build: Callable[[], gymnasium.Env]) -> Iterator[gymnasium.Env]:
    """An environment with ``render_mode="human"`` on a private display, whose `render` films it.

    Args:
        build: Makes the environment. It is closed when the block ends.

    Yields:
        The environment. ``render()`` gives what is in its window, ``[height, width, 3]`` uint8.

    Raises:
        tfpg.video.display.DisplayError: Xvfb is missing.
        WindowError: pygame has a window open already; by ``render()``: none has opened, or it
            cannot be seen.
    """
    with ExitStack() as stack:
        _check_pygame()
        name = stack.enter_context(virtual_display(_SCREEN))
        # A dummy driver opens no window; a dummy card keeps a missing one from complaining.
        stack.enter_context(environment(SDL_VIDEODRIVER="x11", SDL_AUDIODRIVER="dummy"))
        keep_mesa_apart()
        _forget_pygame()
        # A window whose display is gone would end the process.
        stack.callback(_forget_pygame)
        connection = connect(name)
        stack.callback(close, connection)
        yield stack.enter_context(_closing(WindowEnv(build(), connection)))


class WindowEnv(gymnasium.Wrapper):
    """What the largest window of a display shows, in place of what the environment renders."""

    def __init__(self, env: gymnasium.Env, connection: Any):
        super().__init__(env)
        self._connection = connection
        self._draws_itself: bool | None = None

    def render(self) -> Any:
        from Xlib.error import ConnectionClosedError, XError

        try:
            return self._film()
        except (XError, ConnectionClosedError) as error:
            width, height = _SCREEN
            raise WindowError(
                f"The window cannot be seen whole on a screen of {width} x {height} pixels, or its "
                f"display is gone: {' '.join(str(error).split())[:200]}"
            ) from error

    def _film(self) -> np.ndarray:
        if self._draws_itself is None:
            # Gymnasium's environments draw when they are reset and stepped, others when asked to.
            found = self._largest()
            self._draws_itself = found is not None and len(np.unique(_pixels(*found))) > 1
        if not self._draws_itself:
            self.env.render()
        until = time.monotonic() + _PATIENCE
        while (found := self._largest()) is None:
            if time.monotonic() >= until:
                raise WindowError(
                    "The environment has render_mode='human' and has opened no window on its "
                    f"display within {_PATIENCE:.0f} s of a reset: it cannot be filmed."
                )
            time.sleep(0.01)
        return _pixels(*found)

    def _largest(self) -> tuple[Any, int, int] | None:
        """The largest window that can be seen, its width and its height."""
        from Xlib import X

        found = []
        for window in self._connection.screen().root.query_tree().children:
            attributes = window.get_attributes()
            if attributes.map_state == X.IsViewable and attributes.win_class == X.InputOutput:
                size = window.get_geometry()
                found.append((window, size.width, size.height))
        return max(found, key=lambda each: each[1] * each[2], default=None)


def _pixels(window: Any, width: int, height: int) -> np.ndarray:
    from Xlib import X

    data = window.get_image(0, 0, width, height, X.ZPixmap, 0xFFFFFFFF).data
    return np.frombuffer(data, np.uint8).reshape(height, width, 4)[:, :, 2::-1]  # of BGRX


@contextmanager
def _closing(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    try:
        yield env
    finally:
        env.close()


def _check_pygame() -> None:
    """Raises where pygame has a window that is somebody else's: it can have one at a time."""
    pygame = sys.modules.get("pygame")
    if pygame is None or not pygame.display.get_init():
        return
    if pygame.display.get_surface() is not None and pygame.display.get_driver() != "dummy":
        raise WindowError(
            "pygame has a window open in this process, and can have one at a time: close it first "
            "(pygame.display.quit()), or film in another process."
        )


def _forget_pygame() -> None:
    """Closes pygame's window and driver: it chooses them once, by where it started."""
    pygame = sys.modules.get("pygame")
    if pygame is not None and pygame.display.get_init():
        pygame.display.quit()
