"""Warnings and pieces of messages that several packages share."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

_hiding = threading.Lock()
_NOTHING = re.compile(rb"(?!)")

# What MuJoCo prints for each of Gymnasium's models that was written for an older MuJoCo.
MUJOCO_DEPRECATIONS = r"^WARNING: .* is deprecated and will be removed in a future release.*\n\n?"

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points at the line outside tfpg that led to it.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("The lander hovers.")
        >>> str(caught[0].message)
        'The lander hovers.'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def one_line(text: object, limit: int = 200) -> str:
    """Return a value or an error as one line of printable text without a final period.

    Example:
        >>> one_line(ValueError("No such\\n  option."))
        'No such option'
    """
    printable = filter(str.isprintable, " ".join(str(text).split()))
    line = "".join(printable)[:limit].rstrip(".: ")
    return line or type(text).__name__


def alternatives(words: Iterable[object]) -> str:
    """Join the words of which one applies.

    Example:
        >>> alternatives(["on"]), alternatives(["on", "off"]), alternatives([1, 2, 3])
        ('on', 'on or off', '1, 2, or 3')
    """
    *others, last = map(str, words)
    if not others:
        return last
    return f"{', '.join(others)}{',' * (len(others) > 1)} or {last}"


@contextmanager
def hidden_messages(pattern: str) -> Iterator[None]:
    """Hide messages that native code prints to standard error, such as a library's at its start.

    All else that the process writes to its standard error during the block appears after it. If the
    block raises an error, everything appears.

    Args:
        pattern: Regular expression of whole messages. ``^`` matches the start of each line.

    Example:
        >>> with hidden_messages("^I .*\\n"):
        ...     _ = os.write(2, b"I am an unimportant message.\\n")
    """
    if not _hiding.acquire(blocking=False):  # another thread hides its messages
        yield
        return
    try:
        with _held_stderr(re.compile(pattern.encode(), re.MULTILINE)):
            yield
    finally:
        _hiding.release()


@contextmanager
def _held_stderr(hidden: re.Pattern[bytes]) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            sys.stderr.flush()
            held = stack.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(2)
        except (OSError, ValueError, AttributeError):  # it is closed, or the disk is full
            stack.close()
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            hidden = _NOTHING
            raise
        finally:
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            with suppress(OSError), open(stderr, "wb") as file:
                file.write(hidden.sub(b"", held.read()))


def describe_exit(exitcode: int | None) -> str:
    """Return how a process ended, to follow "It ended" or "It died".

    Example:
        >>> describe_exit(3), describe_exit(-11)
        ('with exit code 3', 'of SIGSEGV (-11)')
    """
    if exitcode is None or exitcode >= 0:
        return f"with exit code {exitcode}"
    name = str(exitcode)
    with suppress(ValueError):
        name = signal.Signals(-exitcode).name
    hint = ", out of memory?" if exitcode == -signal.SIGKILL else ""
    return f"of {name} ({exitcode}{hint})"


def number(x: float) -> str:
    """Return a number with four significant digits, or all of them if it is an integer.

    Example:
        >>> number(0.95487), number(4139.2), number(51200)
        ('0.9549', '4,139', '51,200')
    """
    return f"{x:,.0f}" if float(x).is_integer() else f"{float(x):,.4g}"


def show(text: str, file: Any = None) -> None:
    """Print a line. Ignore errors such as a full disk, so that training continues.

    Args:
        text: The line. Characters that the output cannot encode are escaped.
        file: Where to print it. None: the standard output.

    Raises:
        BrokenPipeError: The reader of the output has gone.
    """
    file = sys.stdout if file is None else file
    try:
        try:
            print(text, file=file, flush=True)
        except UnicodeEncodeError:
            known = text.encode(file.encoding, "backslashreplace").decode(file.encoding)
            print(known, file=file, flush=True)
    except BrokenPipeError:
        raise
    except OSError:  # the disk is full, for example
        pass
