"""The command ``tfpg``, as ``python -m tfpg``."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line, and returns its exit code; see `tfpg.cli.main`."""
    try:
        from tfpg import cli
    except KeyboardInterrupt:  # what it imports takes a moment
        print("tfpg: interrupted.", file=sys.stderr)
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
