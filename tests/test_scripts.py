"""The scripts and benchmarks, run as users run them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
HELPERS = ("jobs.py", "peers.py")  # of the benchmarks


def run(script, *args, cwd):
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_model_that_a_script_trained_is_recorded_by_another(tmp_path):
    out = run("train_reinforce.py", "--iterations", 3, "--out", tmp_path / "run", cwd=tmp_path)
    assert "over 100 greedy episodes" in out
    assert (tmp_path / "run/metrics.csv").read_text().count("\n") == 4
    videos = [tmp_path / "episode.mp4", tmp_path / "episode.gif"]
    model = tmp_path / "run/best.keras"
    out = run("record_episode.py", model, "CartPole-v1", *videos, cwd=tmp_path)
    for video in videos:
        assert str(video) in out
        assert video.stat().st_size > 1000


@pytest.mark.slow
def test_continuous_actions_are_trained_and_recorded(tmp_path):
    out = run("train_continuous.py", "--env-steps", 2048, "--out", tmp_path / "run", cwd=tmp_path)
    assert "over 100 episodes" in out
    assert (tmp_path / "run/video.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_a_dqn_is_trained_and_its_diagnostics_are_drawn(tmp_path):
    out = run("train_dqn.py", "--env-steps", 2048, "--out", tmp_path / "run", cwd=tmp_path)
    assert "over 100 greedy episodes" in out
    for name in ("best.keras", "diagnostics.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000


@pytest.mark.slow
def test_an_atari_game_is_trained_and_recorded(tmp_path):
    out = run(
        "train_atari.py",
        *("--env-steps", 600, "--capacity", 2000, "--learning-starts", 200, "--max-steps", 40),
        *("--out", tmp_path / "run"),
        cwd=tmp_path,
    )
    assert "over 5 episodes" in out
    assert (tmp_path / "run/model.keras").stat().st_size > 1000
    assert (tmp_path / "run/video.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_the_benchmark_of_scores_prints_a_row_for_every_preset(tmp_path):
    out = run(
        ROOT / "benchmarks/scores.py",
        *("--quick", "ppo/CartPole-v1", "reinforce/CartPole-v1"),
        cwd=tmp_path,
    )
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        "| ppo/CartPole-v1",
        "| reinforce/CartPole-v1",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_textbook_script_prints_its_iterations(tmp_path):
    out = run(
        "reinforce_in_one_file.py",
        *("--iterations", 2, "--episodes", 2, "--max-steps", 20),
        cwd=tmp_path,
    )
    assert [line.split(":")[0] for line in out.splitlines()] == ["iteration 1/2", "iteration 2/2"]


def test_the_textbook_script_does_not_import_tfpg():
    text = (SCRIPTS / "reinforce_in_one_file.py").read_text()
    assert "import tfpg" not in text
    assert "from tfpg" not in text


RECIPES = [
    *("train_reinforce.py", "train_continuous.py", "train_dqn.py", "train_atari.py"),
    "record_episode.py",
]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_short_and_use_public_names_alone(name):
    text = (SCRIPTS / name).read_text()
    assert 20 <= len(text.splitlines()) <= 40
    imports = [line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))]
    assert "tfpg" in imports
    assert not [name for name in imports if name.startswith("tfpg.")]


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda p: p.name)
def test_shell_scripts_parse(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.name not in HELPERS],
    ids=lambda p: p.name,
)
def test_benchmarks_explain_their_usage(path, tmp_path):
    done = subprocess.run(
        [sys.executable, path, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "usage" in done.stdout


@pytest.mark.slow
def test_the_textbook_benchmark_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/textbook.py", "--rounds", "1", "--only", "10"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    setting, *numbers = done.stdout.splitlines()[1].rsplit(None, 7)[:4]
    ours, theirs, ratio = (float(x.replace(",", "")) for x in numbers)
    assert setting == "10 episodes"
    assert ratio == pytest.approx(ours / theirs, rel=0.02)
