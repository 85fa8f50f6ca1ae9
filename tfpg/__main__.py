"""The command ``tfpg``, which also runs as ``python -m tfpg``."""

from __future__ import annotations

import io
import os
import sys

from tfpg.core import signals


def main() -> int:
    """Run the command line, and return its exit code; see `tfpg.cli.main.main`."""
    try:
        from tfpg.cli import main as cli
    except KeyboardInterrupt:  # imports take a moment
        print(signals.INTERRUPTED, end="", file=sys.stderr)
        return 130
    if isinstance(sys.stdout, io.TextIOWrapper):  # it is None, or another's object, in an IDE
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return cli.main()
    finally:
        _flush_output()


def _flush_output() -> None:
    """Write what is left. If the disk is full, this would fail again when Python exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
