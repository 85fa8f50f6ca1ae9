"""What the commands have in common. Nothing here imports TensorFlow before it is asked to."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tfpg.core import signals

_COLORS = re.compile(r"\x1b\[[\d;]*m")
# Of a file that is there, or could be.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_KINDS: dict[type[Warning], str] = {UserWarning: "warning"}


def import_tensorflow() -> None:
    """Imports it with its start-up messages kept off the terminal, unless it fails to start."""
    # Another training may want the GPU beside this one.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA tells of every first time, later
    try:
        sys.stderr.flush()
        terminal = os.dup(2)
    except (OSError, ValueError, AttributeError):  # closed: there is no terminal to keep clean
        from tfpg.core.backend import require_tensorflow

        require_tensorflow()
        return
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            from tfpg.core.backend import require_tensorflow, tf

            require_tensorflow()
            tf.zeros(())  # the first tensor looks for devices, and says so
        except (ImportError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            messages.seek(0)
            os.write(terminal, messages.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@contextmanager
def plain_warnings(debug: bool) -> Iterator[None]:
    """Warnings are one line each, the same one once, unless where they are from is to be shown."""
    if debug:
        yield
        return
    said = set()

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        text = _COLORS.sub("", str(message)).removeprefix("WARN: ")
        line = f"tfpg: {_KINDS.get(category, category.__name__)}: {' '.join(text.split())}\n"
        if line not in said and sys.stderr is not None:
            said.add(line)
            with suppress(OSError, ValueError):
                sys.stderr.write(line)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def carried_out(command: Callable[[Any], int | None], args: argparse.Namespace) -> int:
    """Runs a command, tells of its errors, and returns the exit code."""
    try:
        with plain_warnings(args.debug):
            return command(args) or 0
    except KeyboardInterrupt:
        print(signals.INTERRUPTED, end="", file=sys.stderr)
        return 130
    except BrokenPipeError:  # nobody reads what is printed
        sys.stderr.close()
        return 1
    except signals.Terminated:
        raise
    except (Exception, SystemExit) as error:  # an environment may call sys.exit
        return _told(error, args)


def _told(error: BaseException, args: argparse.Namespace) -> int:
    if args.debug:
        traceback.print_exception(error)
    else:
        print(f"tfpg: error: {message(error)}", file=sys.stderr)
    return 3 if isinstance(error, FloatingPointError) else 1


def message(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SystemExit):
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{last.filename}, line {last.lineno} ({last.name}), ended Python: SystemExit({text}). "
            "Let it raise another exception instead."
        )
    if isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename:
        return (
            f"{str(error.filename)!r} cannot be opened or written ({error.strerror}): change what "
            "it may be used for, or choose another place."
        )
    expected = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)
    if isinstance(error, (*expected, MemoryError)):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def head_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("positive_action", "squash")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def check_env(env_id: str) -> None:
    from tfpg.envs import spaces_of

    spaces_of(env_id)
