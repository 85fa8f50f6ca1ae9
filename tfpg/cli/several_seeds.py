"""``tfpg train --seeds``: several runs of a command, each in a separate process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfpg.core.memory import available_cores
from tfpg.core.messages import show
from tfpg.results.comparison import compare
from tfpg.sharing import runs


def train_seeds(folder: Path, words: Sequence[str], first: int, count: int) -> None:
    """Train with successive seeds, in run folders ``seed-0``, ``seed-1`` and so on.

    Finished runs are skipped, and stopped ones are resumed. What a run prints is in a file next to
    its folder. At the end, the scores are printed.

    Args:
        folder: The folder of the run folders.
        words: The words of the command, after ``tfpg train``.
        first: The first seed.
        count: How many seeds.

    Raises:
        RuntimeError: Some of the runs failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tfpg", "train", *without(words, "--seeds", "--seed", "--run")]
    show(f"Training seeds {first} to {first + count - 1}. The logs are {folder}/seed-*.log.")
    running: list[subprocess.Popen] = []
    stopped, lock = threading.Event(), threading.Lock()

    def run(seed: int) -> bool:
        path, log = folder / f"seed-{seed}", folder / f"seed-{seed}.log"
        if runs.is_finished(path):
            show(f"{path}: already finished")
            return True
        start = time.monotonic()
        own = ["--seed", str(seed), "--run", str(path)]
        with log.open("ab") as out, lock:
            if stopped.is_set():
                return False
            # Not in this process's group, so that a signal reaches it only once.
            process = subprocess.Popen(
                [*command, *own], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            running.append(process)
        code = process.wait()
        state = "finished" if code == 0 else f"failed (exit code {code}), see {log}"
        show(f"{path}: {state} after {time.monotonic() - start:.0f} s")
        return code == 0

    with ThreadPoolExecutor(min(count, available_cores())) as pool:
        try:
            done = list(pool.map(run, range(first, first + count)))
        except BaseException:
            with lock:
                stopped.set()
                for process in running:
                    if process.poll() is None:
                        process.terminate()  # it saves a checkpoint
            raise
    if any(done):
        show(f"\n{compare(folder)}")
    if not all(done):
        raise RuntimeError(f"{done.count(False)} of {count} runs failed.")


def without(words: Sequence[str], *names: str) -> list[str]:
    """Return the words of a command without some options and their values.

    Example:
        >>> without(["ppo", "--seed", "3", "CartPole-v1", "--run=here"], "--seed", "--run")
        ['ppo', 'CartPole-v1']
    """
    kept, rest = [], iter(words)
    for word in rest:
        name, given, _ = word.partition("=")
        if name not in names:
            kept.append(word)
        elif not given:
            next(rest, None)
    return kept
