"""The command ``tfpg check``."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import redirect_stdout, suppress

from tfpg.checks.contracts import PROBLEM
from tfpg.checks.verdicts import Report, Row
from tfpg.cli.startup import carried_out
from tfpg.core import signals
from tfpg.core.messages import describe_exit

# Seconds that an interrupted look has to take down what it has set up.
_PATIENCE = 2.0


def check(args: argparse.Namespace) -> int:
    """``tfpg check ENV``: what is wrong with an environment; 1 if there is a problem.

    It is played in a process of its own, which it may end or crash.
    """
    if os.name != "posix":
        return _check(args)
    ours, theirs = socket.socketpair()
    given = {name: getattr(args, name) for name in ("env", "steps", "seed", "seconds")}
    given |= {name: getattr(args, name) for name in ("json", "debug")}
    serve = f"from tfpg.cli.check import serve; serve({theirs.fileno()})"
    with ours:
        with theirs, signals.blocked():
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {serve}"),
                    json.dumps(given),
                ],
                pass_fds=[theirs.fileno()],
                process_group=0,  # a terminal's Ctrl-C is for this process to answer
            )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        ours.setblocking(False)  # somebody whom it has forked may hold the other end
        with suppress(BlockingIOError):
            if ours.recv(1):
                return code
    text = (
        f"The process in which {args.env!r} was played died {describe_exit(code)}, and a training "
        "would have. Look in it for os._exit, for native code that crashes (--debug shows where), "
        "and at the memory; tfpg train --workers 1 tells the step."
    )
    if not args.json:
        raise RuntimeError(text)
    report = Report(args.env, args.seed or 0, (Row("process", PROBLEM, text),))
    print(json.dumps(report.as_dict()), flush=True)
    return 1


def _end(process: subprocess.Popen) -> None:
    """Ends a process: first it is asked to."""
    try:
        process.terminate()
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def serve(descriptor: int) -> None:
    """What the process does; through the socket it tells that it came to an end of its own."""
    with signals.blocked():
        answer = socket.socket(fileno=descriptor)
        threading.Thread(target=_end_with_parent, args=(answer,), daemon=True).start()
    signals.raise_on_signals()
    args = argparse.Namespace(**json.loads(sys.argv[1]), hangs=False)
    code = 1
    try:
        code = carried_out(_check, args)
    finally:
        answer.send(b"\n")
    if args.hangs:  # so may threads and processes of its own, that are waited for at the end
        os._exit(code)
    sys.exit(code)


def _end_with_parent(answer: socket.socket) -> None:
    """The other end is closed when the process that started this one has ended, however."""
    with suppress(OSError):
        answer.recv(1)
    os.killpg(0, signal.SIGKILL)


def _check(args: argparse.Namespace) -> int:
    # Where frames take OpenGL, TensorFlow comes along, and would speak.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tfpg.checks import check_env

    if args.debug:
        with suppress(RuntimeError):  # there is no stderr
            faulthandler.enable()
    with redirect_stdout(sys.stderr):  # of what the environment prints
        report = check_env(args.env, steps=args.steps, seed=args.seed, seconds=args.seconds)
    print(json.dumps(report.as_dict()) if args.json else report, flush=True)
    args.hangs = report.hangs
    return 0 if report.ok else 1
