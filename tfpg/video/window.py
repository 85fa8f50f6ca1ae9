"""Recording environments that only open a window, from the display it is on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium
import numpy as np

from tfpg.core.messages import one_line
from tfpg.envs.action_masks import with_masks
from tfpg.video.display import environment_variables, preload_mesa, virtual_display, x_connection

SCREEN_SIZE = (2560, 1600)  # of the virtual display; larger windows cannot be recorded
WINDOW_TIMEOUT = 5.0  # seconds after a reset in which a window must open


class WindowError(RuntimeError):
    """There is no window to record."""


@contextmanager
def window_env(build: Callable[[], gymnasium.Env]) -> Iterator[gymnasium.Env]:
    """Make an environment with ``render_mode="human"`` on a virtual display of its own.

    Its ``render()`` returns the content of its window, ``[height, width, 3]`` uint8, or raises a
    `WindowError`. It is closed when the block ends.
    """
    with ExitStack() as stack:
        _check_pygame()
        name = stack.enter_context(virtual_display(SCREEN_SIZE))
        stack.enter_context(environment_variables(SDL_VIDEODRIVER="x11", SDL_AUDIODRIVER="dummy"))
        preload_mesa()
        _quit_pygame_display()
        # A window whose display is gone would end the process.
        stack.callback(_quit_pygame_display)
        connection = stack.enter_context(x_connection(name))
        env = WindowEnv(with_masks(build(), new=True), connection)
        stack.callback(env.close)
        yield env


class WindowEnv(gymnasium.Wrapper):
    """Renders the largest window of a display instead of what the environment renders."""

    def __init__(self, env: gymnasium.Env, connection: Any):
        super().__init__(env)
        self._connection = connection
        self._draws_by_itself: bool | None = None

    def render(self) -> Any:
        from Xlib.error import ConnectionClosedError, XError

        try:
            return self._grab()
        except (XError, ConnectionClosedError) as error:
            width, height = SCREEN_SIZE
            raise WindowError(
                f"The window is larger than the screen of {width} x {height} pixels, or its "
                f"display is gone: {one_line(error)}"
            ) from error

    def _grab(self) -> np.ndarray:
        if self._draws_by_itself is None:
            # Gymnasium's environments draw in reset() and step(), others only in render().
            window = self._largest_window()
            self._draws_by_itself = window is not None and len(np.unique(_pixels(*window))) > 1
        if not self._draws_by_itself:
            self.env.render()
        deadline = time.monotonic() + WINDOW_TIMEOUT
        while (window := self._largest_window()) is None:
            if time.monotonic() >= deadline:
                raise WindowError(
                    "The environment has render_mode='human' and opened no window on its display "
                    f"within {WINDOW_TIMEOUT:.0f} s of a reset: it cannot be recorded."
                )
            time.sleep(0.01)
        return _pixels(*window)

    def _largest_window(self) -> tuple[Any, int, int] | None:
        """The largest visible window, its width and its height."""
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
    return np.frombuffer(data, np.uint8).reshape(height, width, 4)[:, :, 2::-1]  # from BGRX


def _check_pygame() -> None:
    """Raise if pygame already has a window, for it can have only one."""
    pygame = sys.modules.get("pygame")
    if pygame is None or not pygame.display.get_init():
        return
    offscreen = pygame.display.get_driver() in ("dummy", "offscreen")
    if pygame.display.get_surface() is not None and not offscreen:
        raise WindowError(
            "pygame has an open window in this process, and can have only one: close it first "
            "(pygame.display.quit()), or record in another process."
        )


def _quit_pygame_display() -> None:
    """Close pygame's window and driver. It chooses a driver only when its display starts."""
    pygame = sys.modules.get("pygame")
    if pygame is not None and pygame.display.get_init():
        pygame.display.quit()
