"""The command ``tfpg``, which also runs as ``python -m tfpg``."""

from __future__ import annotations

import sys

from tfpg.core import signals


def main() -> int:
    """Run the command line, and return its exit code; see `tfpg.cli.main.main`."""
    try:
        from tfpg.cli import main as cli
    except KeyboardInterrupt:  # imports take a moment
        print(signals.INTERRUPTED, end="", file=sys.stderr)
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
