"""A virtual display, for environments that cannot render without one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

INSTALL_XVFB = "apt-get install xvfb"


class DisplayError(RuntimeError):
    """A virtual display is needed and cannot be started."""


@contextmanager
def virtual_display(size: tuple[int, int] = (1400, 900)) -> Iterator[str]:
    """An X display that nobody sees, for the length of a ``with`` block.

    Starts Xvfb through pyvirtualdisplay on a free display number, points ``DISPLAY`` at it, and
    always takes it down and puts ``DISPLAY`` back: after success, an exception or Ctrl-C.

    Args:
        size: Width and height, in pixels.

    Yields:
        The name of the display, such as ``":1"``.

    Raises:
        DisplayError: Xvfb is not installed or does not start.

    Example:
        >>> with virtual_display() as name:
        ...     name == os.environ["DISPLAY"]
        True
    """
    from pyvirtualdisplay.display import Display

    saved = os.environ.get("DISPLAY")
    try:
        # Without -noreset Xvfb starts over, deaf for a moment, whenever its last client leaves.
        display = Display(visible=False, size=size, extra_args=["-noreset"])
    except FileNotFoundError as error:
        raise DisplayError(
            f"This environment needs a display, and Xvfb is not installed: {INSTALL_XVFB}"
        ) from error
    try:
        try:
            display.start()
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DisplayError(f"Xvfb did not start: {reason}") from error
        yield os.environ["DISPLAY"]
    finally:
        _stop(display)
        if saved is None:
            os.environ.pop("DISPLAY", None)
        else:
            os.environ["DISPLAY"] = saved


@contextmanager
def headless_sdl() -> Iterator[None]:
    """Lets pygame draw without a display where there is none, for the length of the block.

    SDL's dummy driver serves every environment that draws on a surface of its own, and keeps
    SDL from complaining about the missing desktop.
    """
    if os.environ.get("DISPLAY") or os.environ.get("SDL_VIDEODRIVER"):
        yield
        return
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        os.environ.pop("SDL_VIDEODRIVER", None)


def _stop(display) -> None:
    with suppress(Exception):
        display.stop()
    # stop() gives up quietly when start() failed half-way, and leaves the process behind.
    process = getattr(display._obj, "_subproc", None)
    if process is not None and process.poll() is None:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
