"""Several training runs, each in a separate process, on this machine or in a Ray cluster."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.cli.command import is_option
from tfpg.core.memory import available_cores
from tfpg.core.messages import number, show
from tfpg.results.comparison import compare
from tfpg.results.run_data import TRAINING, VALIDATION, last_metrics
from tfpg.sharing import runs

_NAME_WIDTH = 40
# Starts a command with a log file, and returns its exit code.
Runner = Callable[[Sequence[str], Path], int]


class Job(NamedTuple):
    """A training run."""

    name: str  #: its folder, relative to the folder of all runs
    words: list[str]  #: its own options


def seeds(first: int, count: int) -> list[Job]:
    """Return a job for each of ``count`` consecutive seeds.

    Example:
        >>> seeds(5, 2)[1]
        Job(name='seed-6', words=['--seed', '6'])
    """
    return [Job(f"seed-{n}", ["--seed", str(n)]) for n in range(first, first + count)]


def grid(settings: Mapping[str, Sequence[tuple[str, list[str]]]], each: Sequence[Job]) -> list[Job]:
    """Return every combination of settings with every given job.

    Args:
        settings: The values of each setting, as text and as command-line words.
        each: The jobs of a combination.

    Example:
        >>> rates = [("0.1", ["--lr", "0.1"]), ("0.2", ["--lr", "0.2"])]
        >>> [job.name for job in grid({"lr": rates}, seeds(0, 1))]
        ['lr=0.1/seed-0', 'lr=0.2/seed-0']
    """
    jobs = []
    for values in itertools.product(*settings.values()):
        texts = [f"{name}={text}" for name, (text, _) in zip(settings, values, strict=True)]
        words = [word for _, words in values for word in words]
        folder = ",".join(texts).replace("/", "-").replace(" ", "-")
        for job in each:
            jobs.append(Job(f"{folder}/{job.name}" if folder else job.name, words + job.words))
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError("Two runs have the same settings, or settings with the same name.")
    return jobs


def train_all(
    folder: Path,
    words: Sequence[str],
    jobs: Sequence[Job],
    at_once: int | None = None,
    cluster: str | None = None,
    check: Callable[[Path, list[str]], None] = lambda folder, words: None,
) -> None:
    """Train all jobs, show a live table, and print a comparison of their scores at the end.

    Finished runs are skipped, and stopped ones are resumed. A run's output goes to a log file next
    to its folder.

    Args:
        folder: The folder that contains the run folders.
        words: The words of the command, after ``tfpg train``.
        jobs: The runs.
        at_once: How many runs to train at the same time. None: as many as there are cores.
        cluster: Address of a Ray cluster, whose nodes share the folder. None: this machine.
        check: Raises an error if a finished run in a folder has another command than these words.

    Raises:
        RuntimeError: Some of the runs failed.
    """
    for job in jobs:
        if runs.is_finished(folder / job.name):
            check(folder / job.name, [*words, *job.words])
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tfpg", "train", *words]
    board = _Board(folder, [job.name for job in jobs])
    show(f"Training {len(jobs)} runs in {folder}. Their logs are next to their folders.")

    def train(job: Job) -> bool:
        path = folder / job.name
        if runs.is_finished(path):
            board.set(job.name, "already finished")
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        board.set(job.name, "running")
        start = time.monotonic()
        run = [*command, *job.words, "--run", str(path)]
        log = path.with_name(f"{path.name}.log")
        code = runner(run, log)
        seconds = time.monotonic() - start
        state = f"failed (exit code {code})" if code else "finished"
        where = f", see {log}" if code else ""
        board.set(job.name, f"{state} after {seconds:.0f} s{where}")
        return code == 0

    opened = _processes() if cluster is None else _ray_tasks(cluster)
    at_once = at_once or (available_cores() if cluster is None else len(jobs))
    with opened as runner, ThreadPoolExecutor(min(len(jobs), at_once)) as pool:
        futures = [pool.submit(train, job) for job in jobs]
        try:
            while wait(futures, timeout=1.0).not_done:
                board.draw()
        except BaseException:
            for future in futures:
                future.cancel()
            runner.stop()
            raise
    board.draw()
    done = [future.result() for future in futures]
    if any(done):
        show(f"\n{compare(folder)}")
    if not all(done):
        raise RuntimeError(f"{done.count(False)} of {len(jobs)} runs failed.")


class _Processes:
    """Runs commands on this machine."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen] = []
        self._stopped, self._lock = False, threading.Lock()

    def __call__(self, command: Sequence[str], log: Path) -> int:
        with log.open("ab") as out, self._lock:
            if self._stopped:
                return 1
            # Not in this process's group, so that a signal reaches it only once.
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._running.append(process)
        return process.wait()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                if process.poll() is None:
                    process.terminate()  # it saves a checkpoint


@contextmanager
def _processes() -> Iterator[Any]:
    yield _Processes()


class _RayTasks:
    """Runs commands on the nodes of a cluster."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=-1)(_run)
        self._running: list[Any] = []
        self._stopped, self._lock = False, threading.Lock()

    def __call__(self, command: Sequence[str], log: Path) -> int:
        with self._lock:
            if self._stopped:
                return 1
            task = self._task.remote([str(word) for word in command], str(log), os.getcwd())
            self._running.append(task)
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            with log.open("a") as out:
                print(error, file=out)
            return 1

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for task in self._running:
                self._ray.cancel(task)


@contextmanager
def _ray_tasks(address: str) -> Iterator[Any]:
    from tfpg.rollouts.ray_workers import RayWorkers, connected

    with connected(RayWorkers(1, address)):
        import ray

        yield _RayTasks(ray)


def _run(command: list[str], log: str, folder: str) -> int:
    """Run a command in a Ray task, until it ends or the task is canceled."""
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        try:
            return process.wait()
        finally:
            process.terminate()
            process.wait()


class _Board:
    """A table of the runs, redrawn in place in a terminal."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self._folder = folder
        self._states = dict.fromkeys(names, "waiting")
        self._shown: set[str] = set()
        self._lines = 0

    def set(self, name: str, state: str) -> None:
        self._states[name] = state

    def draw(self) -> None:
        """Redraw the table; outside a terminal, print a line for each run that has ended."""
        if not sys.stdout.isatty():
            for name, state in list(self._states.items()):
                if name not in self._shown and state not in ("waiting", "running"):
                    self._shown.add(name)
                    show(f"{self._folder / name}: {state}")
            return
        size = shutil.get_terminal_size()
        rows = [self._row(name, state) for name, state in list(self._states.items())]
        most = max(size.lines - 3, 1)
        if len(rows) > most:  # those that are running, and then those that wait
            order = ["running", "waiting"]
            rows.sort(key=lambda row: order.index(row[1]) if row[1] in order else 2)
            left = len(rows) - most
            rows = [*rows[:most], (f"and {left} more", "", "", "")]
        width = min(max(len(row[0]) for row in rows), _NAME_WIDTH)
        lines = [
            f"{name[-width:]:{width}}  {state:<16.16} {steps:>11} {value:>9}"
            for name, state, steps, value in [("run", "state", "steps", "return"), *rows]
        ]
        up = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        print(up + "\n".join(line[: size.columns - 1] for line in lines), flush=True)
        self._lines = len(lines)

    def _row(self, name: str, state: str) -> tuple[str, str, str, str]:
        row = last_metrics(self._folder / name)
        steps = row.get("env_steps")
        value = row.get(VALIDATION, row.get(TRAINING))
        return (
            name,
            state.removeprefix("already ").split(" after")[0].split(" (")[0],
            "" if steps is None else f"{int(steps):,}",
            "" if value is None else number(value),
        )


def without(words: Sequence[str], *names: str, several: Sequence[str] = ()) -> list[str]:
    """Return the words of a command without the named options and their values.

    Args:
        words: The words.
        *names: Options with one value.
        several: Options with one value or more.

    Example:
        >>> without(["ppo", "--seed", "3", "CartPole-v1", "--run=here"], "--seed", "--run")
        ['ppo', 'CartPole-v1']
    """
    kept, rest = list[str](), iter(words)
    dropping = positional = False
    for word in rest:
        if is_option(word):
            name, given, _ = word.partition("=")
            dropping, positional = name in several, name in names
            if name in names and not given:
                next(rest, None)
            if name not in names and not dropping:
                kept.append(word)
        elif positional:  # at the front, where it is not taken for a value of another option
            kept.insert(1, word)
        elif not dropping:
            kept.append(word)
    return kept
