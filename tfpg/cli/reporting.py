"""The errors, warnings and exit codes of commands."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from tfpg.core import signals

_COLORS = re.compile(r"\x1b\[[\d;]*m")
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_EXPECTED = (
    *(ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError),
    MemoryError,
)


def run_reporting(run: Callable[[], int | None], debug: bool) -> int:
    """Run a command, report its errors on standard error, and return the exit code.

    Args:
        run: The command. It returns an exit code, or None for 0.
        debug: Whether to show tracebacks, and warnings as Python prints them.
    """
    try:
        with plain_warnings(debug):
            return run() or 0
    except KeyboardInterrupt:
        print(signals.INTERRUPTED, end="", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of standard output has gone
        sys.stderr.close()
        return 1
    except signals.Terminated:
        raise
    except (Exception, SystemExit) as error:  # an environment may call sys.exit
        if debug:
            traceback.print_exception(error)
        else:
            print(f"tfpg: error: {message(error)}", file=sys.stderr)
        return 3 if isinstance(error, FloatingPointError) else 1


@contextmanager
def standard_output_as_error() -> Iterator[Any]:
    """Yield the standard output, and let all else that is written there go to standard error.

    Simulators print banners from native code, too, so this is done for the whole process.
    """
    output: Any = sys.stdout
    is_collected = output is not sys.__stdout__  # by a test or a notebook
    if is_collected:
        with redirect_stdout(sys.stderr):
            yield output
        return
    output.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    try:
        with open(os.dup(kept), "w", encoding=output.encoding) as file:
            yield file
    finally:
        with suppress(OSError):
            output.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def plain_warnings(debug: bool) -> Iterator[None]:
    """Print each warning once and on one line, unless ``debug`` is set."""
    if debug:
        yield
        return
    shown = set()

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        text = _COLORS.sub("", str(message)).removeprefix("WARN: ")
        kind = "warning" if category is UserWarning else category.__name__
        line = f"tfpg: {kind}: {' '.join(text.split())}\n"
        if line not in shown and sys.stderr is not None:
            shown.add(line)
            with suppress(OSError, ValueError):
                sys.stderr.write(line)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def message(error: BaseException) -> str:
    """Return the text of an error on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SystemExit):
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{last.filename}, line {last.lineno} ({last.name}) exited Python: "
            f"SystemExit({text}). Raise another exception there."
        )
    if isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename:
        return (
            f"{str(error.filename)!r} cannot be opened or written ({error.strerror}): change its "
            "permissions, or choose another place."
        )
    if isinstance(error, _EXPECTED):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"
