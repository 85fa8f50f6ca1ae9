"""tfpg runs without what Windows and macOS lack.

This is a simulation: Python loses what it does not have there, and the system stays the same.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The modules, functions and constants that are missing.
MACOS = """
import builtins, io, os
for name in "sched_getaffinity waitid O_TMPFILE RTLD_DEEPBIND".split():
    delattr(os, name)

def open_outside_proc(path, *args, system=open, **options):
    if str(path).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", path)
    return system(path, *args, **options)

builtins.open = io.open = open_outside_proc
"""
WINDOWS = f"""{MACOS}
import shutil, signal, subprocess, sys, threading
for name in "fcntl grp pwd resource syslog termios".split():
    sys.modules[name] = None
for name in "fork forkpty getpgid getuid killpg register_at_fork setsid statvfs sysconf".split():
    delattr(os, name)
for name in "SIGALRM SIGHUP SIGKILL SIGQUIT SIGUSR1 pthread_sigmask setitimer".split():
    delattr(signal, name)
subprocess.Popen.kill = subprocess.Popen.terminate
shutil._use_fd_functions = False

def open_file(path, *args, system=os.open, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return system(path, *args, **options)

os.open = open_file
"""

IMPORT = """
import importlib, pkgutil, tfpg
for name in "core envs checkpoints results checks sharing cli".split():  # all without TensorFlow
    package = importlib.import_module(f"tfpg.{name}")
    for each in pkgutil.walk_packages(package.__path__, f"tfpg.{name}."):
        importlib.import_module(each.name)
"""

USE = """
import tfpg
model = tfpg.networks.mlp("CartPole-v1", hidden=(4,), seed=0)
for iterations in (1, 2):
    tfpg.Reinforce(model, episodes_per_update=2, max_steps=8).fit(
        "CartPole-v1", iterations=iterations, seed=0, checkpoints="checkpoints", verbose=0
    )
tfpg.save_model(model, "model.keras")
model = tfpg.load_model("model.keras")
print(tfpg.evaluate(model, "CartPole-v1", episodes=2, seed=0)["episodes"])
tfpg.record(model, "CartPole-v1", "cartpole.mp4", max_steps=8)
"""


@pytest.fixture(params=[MACOS, WINDOWS], ids=["macos", "windows"])
def python(request, tmp_path):
    """A function that runs Python in an empty folder, with the arguments of its command line."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(request.param)
    (tmp_path / "work").mkdir()
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_modules_can_be_imported(python):
    python("-c", IMPORT)


WORKERS = """
from tfpg.envs import open_vec
try:
    with open_vec("CartPole-v1", num_envs=2, workers=2) as envs:
        print(envs.reset(seed=[1, 2])[0].shape)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_workers_run_except_on_windows(python, request):
    done = {
        "macos": "(2, 4)",
        "windows": "Worker processes do not run on Windows: leave out workers.",
    }
    assert python("-c", WORKERS).strip() == done[request.node.callspec.id]


@pytest.mark.slow
def test_python_trains_resumes_saves_evaluates_and_records(python):
    assert python("-c", USE) == "2\n"


@pytest.mark.slow
def test_the_command_line_trains_evaluates_records_and_checks(python):
    def tfpg(*arguments):
        return python("-m", "tfpg", *arguments)

    tfpg("train", "dqn", "CartPole-v1", "--run", "run", "--env-steps", "2000", "--no-video")
    tfpg("evaluate", "run", "--episodes", "2")
    tfpg("record", "run", "cartpole.gif", "--max-steps", "8")
    assert json.loads(tfpg("check", "CartPole-v1", "--json"))["ok"]
    assert json.loads(tfpg("doctor", "--json"))["works"]
