"""``tfpg sweep``: many runs, resumable as a whole, compared at the end."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from tfpg.cli.main import main
from tfpg.cli.several_runs import grid, seeds, without
from tfpg.sharing.runs import is_finished

SMALL = ["--env-steps", "1500", "--no-video", "--episodes-per-update", "4", "--hidden", "8"]
SWEEP = ["sweep", "reinforce", "CartPole-v1", *SMALL, "--seeds", "2", "--seed", "3"]
SETTINGS = ["--set", "learning_rate=1e-2,3e-3", "normalize=on,off"]


def command(folder, *more):
    return [sys.executable, "-m", "tfpg", *SWEEP, *SETTINGS, "--run", str(folder), *more]


def table(out):
    """The comparison in an output."""
    return out[out.index("CartPole-v1: return") : out.index("IQM:")]


def test_a_grid_has_all_combinations():
    jobs = grid({"a": [("1", ["--a", "1"])], "b": [("x", ["--b"]), ("y", [])]}, seeds(0, 2))
    assert [job.name for job in jobs] == [
        f"a=1,b={b}/seed-{seed}" for b in ("x", "y") for seed in (0, 1)
    ]
    assert jobs[1].words == ["--a", "1", "--b", "--seed", "1"]


def test_runs_that_would_share_a_folder_are_refused():
    with pytest.raises(ValueError, match="settings with the same name"):
        grid({"a": [("1", ["--a", "1"]), ("1", ["--a", "1"])]}, seeds(0, 1))


def test_options_and_their_values_are_left_out():
    words = ["ppo", "--seeds", "3", "Acrobot-v1", "--set", "a=1", "b=2", "--gamma", "0.9"]
    assert without(words, "--seeds", several=["--set"]) == ["ppo", "Acrobot-v1", "--gamma", "0.9"]
    assert without(["ppo", "--set=a=1", "b=2", "--jobs=2", "x"], "--jobs", several=["--set"]) == [
        "ppo",
        "x",
    ]


@pytest.mark.slow
def test_finished_runs_with_other_options_are_not_taken_for_these(tmp_path):
    train = ["train", "reinforce", *SMALL, "--seeds", "1", "CartPole-v1", "--run"]
    run = partial(subprocess.run, capture_output=True, text=True)
    first = run([sys.executable, "-m", "tfpg", *train, str(tmp_path / "runs")])
    assert first.returncode == 0, first.stderr
    assert "already finished" in run([*first.args]).stdout
    other = run([*first.args, "--gamma", "0.5"])
    assert other.returncode == 1
    assert "has a run with the default --gamma, but this one has --gamma 0.5" in other.stderr


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("learning_rate", "--set must be NAME=VALUE,VALUE"),
        ("learning_rat=1,2", "--learning-rat"),
        ("learning_rate=fast", "--learning-rate"),
        ("normalize=maybe", "--set normalize must be on or off"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(tmp_path, capsys, setting, text):
    assert main([*SWEEP, "--set", setting, "--run", str(tmp_path / "runs")]) in (1, 2)
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a sweep printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished after") == 8
    assert {"curves.png", "scores.png"} <= {x.name for x in folder.iterdir()}
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_resumes_with_the_same_table(tmp_path, number, whole):
    stopped = tmp_path / "stopped"
    with subprocess.Popen(command(stopped), stdout=subprocess.PIPE, text=True) as process:
        while not any(is_finished(path) for path in stopped.glob("*/seed-*")):
            time.sleep(0.1)
        process.send_signal(number)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    time.sleep(15 * (number == signal.SIGKILL))  # the runs themselves were not killed
    again = subprocess.run(command(stopped), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout
    assert table(again.stdout) == table(whole)


@pytest.mark.slow
def test_a_ray_cluster_trains_the_runs(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'tfpg[ray]'")
    program = f"""
import sys
from ray.cluster_utils import Cluster
from tfpg.cli.main import main
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 2}})
words = {[*SWEEP, *SETTINGS[:2], "--run", str(tmp_path / "runs")]!r}
sys.exit(main([*words, "--cluster", cluster.address]))
"""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished after") == 4
    assert "learning_rate=0.003" in table(done.stdout)


@pytest.mark.slow
def test_a_terminal_shows_a_live_table(tmp_path):
    main_end, end = pty.openpty()
    process = subprocess.Popen(command(tmp_path / "runs"), stdout=end, stderr=end)
    os.close(end)
    shown = b""
    try:
        while part := os.read(main_end, 10_000):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    text = shown.decode()
    assert re.search(r"normalize=on/seed-3 +running +[\d,]+ +\d", text)
    assert "\x1b[9F" in text
    rows = [x for x in text.split("\r\n") if "/seed-" in x and "runs" not in x]
    assert len(rows) > 16
    assert max(map(len, rows)) < 80
