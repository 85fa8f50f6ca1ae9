"""What a machine without a screen lacks: a display, an SDL driver, off-screen OpenGL."""

from __future__ import annotations

import ctypes
import glob
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from tfpg.core.signals import blocked

INSTALL_XVFB = "apt-get install xvfb"
INSTALL_GL = "apt-get install libegl1 libgl1-mesa-dri"

# Off-screen OpenGL by the names that MuJoCo has for it, and the library of each.
GL_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}

# Where distributions put Mesa's drivers; since its version 24.1 they are one library.
_MESA = [
    *("/usr/lib*/dri/swrast_dri.so", "/usr/lib/*/dri/swrast_dri.so"),
    *("/usr/lib*/libgallium-*.so", "/usr/lib/*/libgallium-*.so"),
]

# DISPLAY is the process's: who has put it somewhere else keeps other threads waiting.
_DISPLAY = threading.Lock()
_holder: int | None = None


class DisplayError(RuntimeError):
    """A virtual display is needed and cannot be started."""


@contextmanager
def virtual_display(size: tuple[int, int] = (1400, 900)) -> Iterator[str]:
    """An X display that nobody sees, for the length of a ``with`` block.

    Starts Xvfb through pyvirtualdisplay on a free display number, points ``DISPLAY`` at it, and
    always takes it down and puts ``DISPLAY`` back: after success, an exception or Ctrl-C. It goes
    with this process too, however that ends. A process has one at a time, and threads take turns.

    Args:
        size: Width and height, in pixels.

    Yields:
        The name of the display, such as ``":1"``.

    Raises:
        DisplayError: Xvfb is not installed or does not start, or this thread has one already.

    Example:
        >>> with virtual_display() as name:
        ...     name == os.environ["DISPLAY"]
        True
    """
    from pyvirtualdisplay.display import Display

    with _alone(), ExitStack() as stack:
        stack.enter_context(environment(DISPLAY=os.environ.get("DISPLAY")))
        try:
            # Xvfb leaves with its last client. We are one, so that it stays until then, and no
            # longer than this process: the system closes the connections of one that was killed.
            display = Display(visible=False, size=size, extra_args=["-terminate"])
        except FileNotFoundError as error:
            raise DisplayError(
                f"This environment needs a display, and Xvfb is not installed: {INSTALL_XVFB}"
            ) from error
        stack.callback(_stop, display)
        try:
            # A terminal sends them to all in it, and a display has to outlive its clients.
            with blocked():  # Xvfb inherits that
                display.start()
            connection = connect(os.environ["DISPLAY"])
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DisplayError(f"Xvfb did not start: {reason}") from error
        stack.callback(close, connection)
        yield os.environ["DISPLAY"]


@contextmanager
def headless_sdl() -> Iterator[None]:
    """Lets pygame draw without a display where there is none, for the length of the block.

    SDL's dummy drivers serve every environment that draws on a surface of its own, and keep
    SDL from complaining about the missing desktop and the missing sound.
    """
    if os.environ.get("DISPLAY") or os.environ.get("SDL_VIDEODRIVER"):
        yield
        return
    with environment(SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy"):
        yield


@contextmanager
def offscreen_gl() -> Iterator[None]:
    """Lets MuJoCo render without a display, for the length of the block.

    By EGL, or OSMesa, whichever is installed first. ``MUJOCO_GL`` is the user's where it is set.
    """
    found = gl_library()
    if os.environ.get("MUJOCO_GL") or found is None:
        yield
        return
    with environment(MUJOCO_GL=found):
        yield


def gl_library() -> str | None:
    """MuJoCo's name for the off-screen OpenGL of this machine; None: it has none.

    Example:
        >>> gl_library() in ("egl", "osmesa", None)
        True
    """
    for name, library in GL_LIBRARIES.items():
        with suppress(OSError):
            ctypes.CDLL(library)
            return name
    return None


def keep_mesa_apart() -> None:
    """Loads the drivers of Mesa, where there are any, so that they keep to their own LLVM.

    TensorFlow holds an LLVM of another version, and whichever draws or is loaded second takes the
    functions of the other for its own and ends the process, unless TensorFlow comes first and
    Mesa's drivers look for names in themselves first.
    """
    import tensorflow  # noqa: F401

    given = os.environ.get("LIBGL_DRIVERS_PATH")
    patterns = [f"{given}/swrast_dri.so"] if given else _MESA
    for path in sorted({found for pattern in patterns for found in glob.glob(pattern)}):
        with suppress(OSError):
            ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_DEEPBIND)


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Environment variables set, or unset where None, for the length of a ``with`` block.

    Example:
        >>> with environment(TFPG_EXAMPLE="1"):
        ...     os.environ["TFPG_EXAMPLE"]
        '1'
        >>> "TFPG_EXAMPLE" in os.environ
        False
    """
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def connect(name: str):
    """A connection to an X display, as a client of it.

    Raises:
        Exception: One of python-xlib's, where it is not there.
    """
    from Xlib.display import Display

    return Display(name)


@contextmanager
def _alone() -> Iterator[None]:
    """Keeps other threads out; a film that was left half-way may be ended by another one."""
    global _holder
    if _holder == threading.get_ident():
        raise DisplayError(
            "A virtual display is in use already, perhaps by frames of a window that are not all "
            "taken: a process has one at a time."
        )
    _DISPLAY.acquire()
    _holder = threading.get_ident()
    try:
        yield
    finally:
        _holder = None
        _DISPLAY.release()


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def close(connection) -> None:
    """Ends a connection, whose server may be gone."""
    with suppress(Exception):
        connection.close()


def _stop(display) -> None:
    with suppress(Exception):
        display.stop()
    # stop() gives up quietly when start() failed half-way, and leaves the process behind.
    process = getattr(display._obj, "_subproc", None)
    if process is not None and process.poll() is None:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
