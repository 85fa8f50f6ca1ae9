"""The command ``tfpg check``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout


def check(args: argparse.Namespace) -> int:
    """``tfpg check ENV``: what is wrong with an environment; 1 if there is a problem."""
    # Where frames take OpenGL, TensorFlow comes along, and would speak.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tfpg.checking import check_env

    with redirect_stdout(sys.stderr):  # of what the environment prints
        report = check_env(args.env, steps=args.steps, seed=args.seed, seconds=args.seconds)
    print(json.dumps(report.as_dict()) if args.json else report, flush=True)
    code = 0 if report.ok else 1
    if report.hangs:  # so may threads and processes of its own, that are waited for at the end
        os._exit(code)
    return code
