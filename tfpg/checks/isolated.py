"""`check_env` in a separate process, because an environment may crash, end or block it."""

from __future__ import annotations

import faulthandler
import json
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tfpg.checks.env_checks import run_checks
from tfpg.checks.report import Report, Row
from tfpg.core.messages import describe_exit
from tfpg.core.seeding import check_seed
from tfpg.envs.contracts import PROBLEM
from tfpg.envs.worker_process import end_group, end_with_parent

# Seconds for a process that is out of time to end by itself.
_PATIENCE = 10.0


def check_isolated(
    env_id: str, *, steps: int = 1000, seed: int | None = 0, seconds: float = 10.0
) -> Report:
    """Check an environment in another process.

    Calls that never return are interrupted and reported. So is the end of the process.

    Args:
        env_id: An environment id.
        steps: Number of random steps; see `tfpg.check_env`.
        seed: Seed of the first episode. None: a random one.
        seconds: Time limit for the whole check.

    Returns:
        A `Report`.

    Example:
        >>> check_isolated("CartPole-v1", steps=100).ok
        True
    """
    seed = check_seed(seed)
    options = {"env": env_id, "steps": steps, "seed": seed, "seconds": seconds}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "report.json")
        answer.touch()
        serve = f"from tfpg.checks.isolated import serve; serve({str(answer)!r})"
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {serve}"),
                json.dumps(options),
            ],
            stdin=subprocess.PIPE,  # when it is closed, the process ends
            stdout=subprocess.DEVNULL if sys.__stderr__ is None else 2,
            process_group=0,
        )
        assert process.stdin is not None
        try:
            code = end_group(process)
        finally:
            process.stdin.close()
        report = answer.read_bytes()
    if report:
        return Report.from_dict(json.loads(report))
    detail = (
        f"The process that played {env_id!r} died {describe_exit(code)}, as a training run would. "
        "Look for os._exit, for native code that crashes, and at the memory usage; "
        "tfpg train --workers 1 reports the step."
    )
    return Report(env_id, seed, (Row("process", PROBLEM, detail),))


def serve(path: str) -> None:
    """Check the environment of the command line, and write the report to a file."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    options = json.loads(sys.argv[1])
    if sys.__stderr__ is not None:
        faulthandler.enable()
        # For native code that never returns and does not let signal handlers run.
        faulthandler.dump_traceback_later(options["seconds"] + _PATIENCE, exit=True)
    report = run_checks(**options, interrupt=hasattr(signal, "setitimer"))
    Path(path).write_text(json.dumps(report.as_dict()))
