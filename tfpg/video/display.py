"""Rendering on a machine without a screen: virtual displays, SDL drivers, off-screen OpenGL."""

from __future__ import annotations

import ctypes
import glob
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from tfpg.core.backend import quiet_start
from tfpg.core.messages import one_line
from tfpg.core.signals import blocked

INSTALL_XVFB = "apt-get install xvfb" if sys.platform == "linux" else "use Linux"
INSTALL_GL = "apt-get install libegl1 libgl1-mesa-dri"

# MuJoCo's names for off-screen OpenGL, and the library of each.
_GL_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}

# Where distributions put Mesa's drivers. Since Mesa 24.1 they are one library.
_MESA_DRIVERS = [
    *("/usr/lib*/dri/swrast_dri.so", "/usr/lib/*/dri/swrast_dri.so"),
    *("/usr/lib*/libgallium-*.so", "/usr/lib/*/libgallium-*.so"),
]

# DISPLAY belongs to the whole process, so only one thread at a time may change it.
_display_lock = threading.Lock()
_display_owner: int | None = None


class DisplayError(RuntimeError):
    """A virtual display is needed and cannot be started."""


@contextmanager
def virtual_display(size: tuple[int, int] = (1400, 900)) -> Iterator[str]:
    """Start an X display without a screen for the length of a ``with`` block.

    Starts Xvfb through pyvirtualdisplay on a free display number and points ``DISPLAY`` at it.
    Xvfb is stopped and ``DISPLAY`` restored after success, an exception or Ctrl-C. If this process
    is killed, Xvfb ends too. A process has one virtual display at a time, and threads take turns.

    Yields:
        The name of the display, such as ``":1"``.

    Raises:
        DisplayError: Xvfb is not installed or does not start, or this thread already has a display.

    Example:
        >>> with virtual_display() as name:
        ...     name == os.environ["DISPLAY"]
        True
    """
    from pyvirtualdisplay.display import Display

    with ExitStack() as stack:
        stack.enter_context(_exclusive())
        stack.enter_context(environment_variables(DISPLAY=os.environ.get("DISPLAY")))
        try:
            # With -terminate, Xvfb ends with its last client. We are one, so it stays as long as
            # we do: the system closes the connections of a process that is killed.
            display = Display(visible=False, size=size, extra_args=["-terminate"])
        except FileNotFoundError as error:
            raise DisplayError(
                f"This environment needs a display, and Xvfb is not installed: {INSTALL_XVFB}"
            ) from error
        stack.callback(_stop, display)
        try:
            # Xvfb inherits the blocked signals: a Ctrl-C in the terminal must not end it before
            # its clients.
            with blocked():
                display.start()
            stack.enter_context(x_connection(os.environ["DISPLAY"]))
        except Exception as error:
            raise DisplayError(f"Xvfb did not start: {one_line(error, 300)}") from error
        yield os.environ["DISPLAY"]


@contextmanager
def offscreen_drivers() -> Iterator[None]:
    """Let pygame and MuJoCo render without a display for the length of a ``with`` block.

    pygame draws with SDL's offscreen driver and without sound. MuJoCo uses EGL or OSMesa, whichever
    is installed. Drivers that the user has chosen, and a display that exists, are kept.
    """
    drivers: dict[str, str | None] = {}
    if not os.environ.get("DISPLAY") and not os.environ.get("SDL_VIDEODRIVER"):
        # Some environments draw nothing with SDL's "dummy" driver.
        drivers |= {"SDL_VIDEODRIVER": "offscreen,dummy", "SDL_AUDIODRIVER": "dummy"}
    if not os.environ.get("MUJOCO_GL") and (gl := gl_library()) is not None:
        drivers |= {"MUJOCO_GL": gl}
    with environment_variables(**drivers):
        yield


def gl_library() -> str | None:
    """Return MuJoCo's name for the off-screen OpenGL of this machine, or None without one.

    Example:
        >>> gl_library() in ("egl", "osmesa", None)
        True
    """
    for name, library in _GL_LIBRARIES.items():
        with suppress(OSError):
            ctypes.CDLL(library)
            return name
    return None


def preload_mesa() -> None:
    """Load Mesa's drivers, if there are any, bound to their own symbols and after TensorFlow.

    Mesa and TensorFlow each contain an LLVM, of different versions. Without this, the one that is
    loaded second uses functions of the first, and the process ends with a segmentation fault.
    """
    with quiet_start():
        import tensorflow  # noqa: F401

    folder = os.environ.get("LIBGL_DRIVERS_PATH")
    patterns = [f"{folder}/swrast_dri.so"] if folder else _MESA_DRIVERS
    for path in sorted({found for pattern in patterns for found in glob.glob(pattern)}):
        with suppress(OSError):
            ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_DEEPBIND)


@contextmanager
def environment_variables(**variables: str | None) -> Iterator[None]:
    """Set environment variables, or unset them with None, for the length of a ``with`` block.

    Example:
        >>> with environment_variables(TFPG_EXAMPLE="1"):
        ...     os.environ["TFPG_EXAMPLE"]
        '1'
        >>> "TFPG_EXAMPLE" in os.environ
        False
    """

    def assign(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    before = {name: os.environ.get(name) for name in variables}
    assign(variables)
    try:
        yield
    finally:
        assign(before)


@contextmanager
def x_connection(name: str) -> Iterator[Any]:
    """Connect to an X display as a client, by python-xlib."""
    from Xlib.display import Display

    connection = Display(name)
    try:
        yield connection
    finally:
        with suppress(Exception):  # the server may be gone
            connection.close()


@contextmanager
def _exclusive() -> Iterator[None]:
    """Make other threads wait. The block may end in another thread than it began in."""
    global _display_owner
    if _display_owner == threading.get_ident():
        raise DisplayError(
            "A virtual display is already in use, perhaps by tfpg.frames, whose frames were not "
            "all read. A process can have only one at a time."
        )
    with _display_lock:
        _display_owner = threading.get_ident()
        try:
            yield
        finally:
            _display_owner = None


def _stop(display: Any) -> None:
    with suppress(Exception):
        display.stop()
    # stop() leaves the process running if start() failed half-way.
    process = getattr(display._obj, "_subproc", None)
    if process is not None and process.poll() is None:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
