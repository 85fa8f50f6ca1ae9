"""``tfpg verify-resume ALGORITHM ENV``: kill a run, resume it, and compare the results."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfpg.agents.digests import digests
from tfpg.agents.registry import algorithm_class
from tfpg.checkpoints.store import Store
from tfpg.cli.command import EnvArguments, WithJson, argument, click_command, setting
from tfpg.core.messages import describe_exit
from tfpg.core.options import count, whole
from tfpg.envs import render_modes
from tfpg.sharing import runs


class VerifyResume(EnvArguments, WithJson):
    """Kill a training run, resume it, and compare the results.

    The same training runs twice: once without interruption, and once killed and resumed. The exit
    code is 0 if the results of both are bit-for-bit identical, and 1 otherwise.
    """

    algorithm: str = argument("Algorithm name, as in tfpg train.")
    env: str = argument("Gymnasium id, or module:id.")
    iterations: int = setting("Iterations of each run.", count, default=8)
    kills: int = setting("Number of times to kill the second run.", count, default=2)
    seed: int = setting("Seed of both runs.", whole, default=0)

    def execute(self) -> int:
        algorithm_class(self.algorithm)
        render_modes(self.env)
        with tempfile.TemporaryDirectory() as folder:
            whole_run, killed_run = Path(folder) / "whole", Path(folder) / "killed"
            train = ["train", self.algorithm, self.env, "--seed", str(self.seed), "--no-video"]
            train += ["--iterations", str(self.iterations), "--checkpoint-every", "0"]
            train += ["--verbose", "0", "--run"]
            warnings = _run([*train, str(whole_run)])
            kills = 0
            while kills < self.kills and _killed([*train, str(killed_run)], killed_run, kills):
                kills += 1
            if not kills:
                raise RuntimeError(
                    "The run ended before it could be killed: use more --iterations than "
                    f"{self.iterations}."
                )
            if not (killed_run / runs.LAST).exists():
                warnings = _run(["resume", str(killed_run), "--verbose", "0"])
            there, here = _hashes(whole_run), _hashes(killed_run)
        names = {**there, **here}
        rows = [(x, there.get(x, "missing"), here.get(x, "missing")) for x in names]
        self.print_comparison(rows, kills)
        if warnings.strip() and not self.json:
            print(warnings.strip(), file=sys.stderr)
        return int(there != here)

    def print_comparison(self, rows: list[tuple[str, str, str]], kills: int) -> None:
        """Print the hashes of the parts of both runs."""
        same = all(a == b for _, a, b in rows)
        if self.json:
            parts = {name: {"whole": a, "killed": b} for name, a, b in rows}
            self.print_json({"same": same, "kills": kills, "parts": parts})
            return
        for name, a, b in rows:
            print(f"{name:18}{a[:16]}  {'equal' if a == b else b[:16] + '  differs'}")
        print(
            f"{self.algorithm} in {self.env}, {self.iterations} iterations, killed {kills} "
            f"time{'s' * (kills > 1)}: the result {'equals' if same else 'DIFFERS FROM'} that of a "
            f"run that was not killed{', bit for bit' * same}."
        )


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "tfpg", *arguments]


def _run(arguments: list[str]) -> str:
    """Run a command to its end, and return its standard error.

    Raises:
        RuntimeError, FloatingPointError: It failed.
    """
    done = subprocess.run(
        _command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    text = done.stderr.decode(errors="replace")
    if done.returncode:
        kind = FloatingPointError if done.returncode == 3 else RuntimeError
        reason = text.rpartition("tfpg: error: ")[2].strip()
        raise kind(reason or f"The run died {describe_exit(done.returncode)}.")
    return text


def _killed(arguments: list[str], run: Path, kills: int) -> bool:
    """Return whether a run could be killed after it had written a checkpoint."""
    store = Store(run / runs.CHECKPOINTS)
    before, none = store.steps(), subprocess.DEVNULL
    with subprocess.Popen(_command(arguments), stdout=none, stderr=none) as process:
        try:
            while process.poll() is None:
                if store.steps()[-1:] > before[-1:]:
                    time.sleep(0.01 * kills)  # a different moment each time
                    return True
                time.sleep(0.002)
        finally:
            process.kill()
    return False


def _hashes(run: Path) -> dict[str, str]:
    """Return hashes of everything that a run saved."""
    found = digests(run / runs.CHECKPOINTS)
    found.pop("MetricsLogger", None)  # metrics.csv itself is compared
    found["metrics.csv"] = hashlib.sha256((run / runs.METRICS).read_bytes()).hexdigest()
    return found


verify_resume = click_command("verify-resume", VerifyResume)
