"""The command ``tfpg check``."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
from contextlib import redirect_stdout

from tfpg.errors import exit_words
from tfpg.startup import failed

# Seconds that an interrupted look has to take down what it has set up.
_PATIENCE = 2.0


def check(args: argparse.Namespace) -> int:
    """``tfpg check ENV``: what is wrong with an environment; 1 if there is a problem.

    It is played in a process of its own, which it may end or crash.
    """
    if not hasattr(os, "fork"):
        return _check(args)
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
        code = 1
        try:
            try:
                code = _check(args)
            except Exception as error:
                code = failed(error, args.debug)
            sys.stdout.flush()
            os.write(answer, b"\n")
        finally:  # nothing of what called this goes on twice
            os._exit(code)
    os.close(answer)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        _end(child)
        raise
    with os.fdopen(answers, "rb") as told:
        code = os.waitstatus_to_exitcode(status)
        if told.read(1):
            return code
    raise RuntimeError(
        f"The process in which {args.env!r} was played died {exit_words(code)}, and so would a "
        "training. Look for os._exit in it, and for native code that crashes: --debug shows where."
    )


def _end(child: int) -> None:
    """Ends a process: first it is asked to."""
    os.kill(child, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _check(args: argparse.Namespace) -> int:
    # Where frames take OpenGL, TensorFlow comes along, and would speak.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tfpg.checking import check_env

    if args.debug:
        faulthandler.enable()
    with redirect_stdout(sys.stderr):  # of what the environment prints
        report = check_env(args.env, steps=args.steps, seed=args.seed, seconds=args.seconds)
    print(json.dumps(report.as_dict()) if args.json else report, flush=True)
    return 0 if report.ok else 1
