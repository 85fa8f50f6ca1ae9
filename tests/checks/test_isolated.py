"""The command ``tfpg check`` survives what environments do to their process."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from marks import slow_but

TESTS = Path(__file__).parents[1]


def environment(**more):
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "80", **more}


def run(*args, **environ):
    return subprocess.run(
        [sys.executable, "-m", "tfpg", "check", *args],
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_neither_process_imports_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('imported')")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = run("CartPole-v1", "--steps", "200", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[2] == "action space       ok  Discrete(2); a model has 1 or 2 outputs"


def test_json_is_one_object_and_what_the_environment_prints_goes_to_stderr():
    done = run("misbehaving:Squeaking-v0", "--json", "--seed", "3", "--steps", "9")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert "squeak" in done.stderr
    assert (report["env"], report["seed"], report["ok"]) == ("misbehaving:Squeaking-v0", 3, True)
    assert report["rows"][-1] == {
        "what": "warnings",
        "verdict": "warning",
        "detail": "The wheel squeaks",
    }


@pytest.mark.parametrize(
    ("name", "what", "where", "unchecked"),
    [
        ("Hanging", "step", " s (step 3, seed 0)", "determinism, rendering, speed"),
        ("Spinning", "reset", " s (reset, seed 0)", "determinism, rendering, speed"),
        ("Unclosable", "rendering", " s", "speed"),
    ],
)
def test_a_call_that_never_returns_is_interrupted(name, what, where, unchecked):
    done = run(f"misbehaving:{name}-v0", "--seconds", "0.5", "--steps", "9", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    rows = json.loads(done.stdout)["rows"]
    (problem,) = [row for row in rows if row["verdict"] == "problem"]
    assert problem["what"] == what
    assert problem["detail"].startswith("a call did not return in ")
    assert problem["detail"].endswith(where)
    assert rows[-1]["detail"] == f"not checked within 0.5 s: {unchecked}; allow more time"


@pytest.mark.parametrize(
    ("name", "words"),
    [("Ending", "died with exit code 3"), ("Crashing", "died of SIGSEGV (-11)")],
)
def test_an_environment_that_ends_its_process(name, words):
    done = run(f"misbehaving:{name}-v0", "--json")
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)["rows"]
    assert row["verdict"] == "problem"
    begins = f"The process that played 'misbehaving:{name}-v0' {words}, as a training run would"
    assert row["detail"].startswith(begins)
    assert ("in crash\n" in done.stderr) == (name == "Crashing")


@pytest.mark.slow
def test_native_code_that_never_returns_is_ended_with_its_traceback():
    done = run("misbehaving:Deadlocked-v0", "--seconds", "0.5")
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert 'misbehaving.py", line' in done.stderr
    assert "died with exit code 1" in " ".join(done.stdout.split())


def test_a_closed_pipe_is_no_error_of_the_environment():
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "tfpg", "check", "CartPole-v1", "--steps", "9"]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, timeout=60)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_output_is_no_error_of_the_environment(closed):
    command = f"{shlex.quote(sys.executable)} -m tfpg check CartPole-v1 --steps 9 --debug {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_environments_exit_handlers_run():
    seconds = f"300.{os.getpid()}"  # which identifies the helper
    assert run("misbehaving:Helped-v0", "--steps", "9", HELPER=seconds).returncode == 0
    helpers = [p for p in psutil.process_iter(["cmdline"]) if seconds in (p.info["cmdline"] or [])]
    assert not helpers


@pytest.mark.parametrize(
    ("starting", "seconds"), slow_but([("0.4", "4")], [("0.4", "4"), ("1.5", "5"), ("3", "2")])
)
def test_simulators_that_are_slow_to_start_are_ended_and_no_problem(starting, seconds):
    name = f"300.{os.getpid()}{starting}"  # which identifies them
    environ = {"SIMULATOR": name, "STARTING": starting}
    done = run("misbehaving:Simulated-v0", "--seconds", seconds, "--steps", "50", **environ)
    left = [p for p in psutil.process_iter(["cmdline"]) if name in (p.info["cmdline"] or [])]
    assert not left
    problems = [x for x in done.stdout.splitlines() if x[:28].split()[1:2] == ["problem"]]
    if starting != "3":  # longer than the whole check may take
        assert (done.returncode, problems) == (0, [])


def test_a_process_that_the_environment_leaves_behind_is_not_waited_for():
    begun = time.monotonic()
    done = run("misbehaving:Leaving-v0", "--seconds", "5")
    assert "died with exit code 3" in " ".join(done.stdout.split())
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("number", "code"),
    slow_but(
        [(signal.SIGINT, 130)],
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ),
)
@pytest.mark.parametrize("name", slow_but(["Hanging"], ["Hanging", "Holding"]))
def test_a_check_that_is_stopped_leaves_no_process_behind(name, number, code):
    process = subprocess.Popen(
        [sys.executable, "-m", "tfpg", "check", f"misbehaving:{name}-v0", "--seconds", "60"],
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 30
    while not (children := psutil.Process(process.pid).children()) and time.monotonic() < until:
        time.sleep(0.01)
    (child,) = children
    time.sleep(1.5)
    process.send_signal(number)
    assert process.wait(20) == code
    child.wait(40 if name == "Holding" else 5)
