"""The command ``tfpg check``."""

from __future__ import annotations

import argparse
import json

from tfpg.checks.isolated import check_isolated


def check(args: argparse.Namespace) -> int:
    """``tfpg check ENV``: what is wrong with an environment; 1 if there is a problem.

    It is played in a process of its own, which it may crash, end or block.
    """
    report = check_isolated(args.env, steps=args.steps, seed=args.seed, seconds=args.seconds)
    print(json.dumps(report.as_dict()) if args.json else report, flush=True)
    return 0 if report.ok else 1
