"""Comparisons of final scores, their tables and the commands."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from IPython.core.formatters import DisplayFormatter
from made_runs import make_run
from PIL import Image

import tfpg


@pytest.fixture
def runs(tmp_path):
    """Five seeds of ppo, three of dqn, and one of each in another environment."""
    for seed, final in enumerate([100, 200, 300, 400, 500]):
        make_run(tmp_path / f"runs/ppo/{seed}", [0, final], seed)
    for seed, final in enumerate([100, 150, 200]):
        make_run(tmp_path / f"runs/dqn/{seed}", [0, final], seed, "dqn")
    make_run(tmp_path / "runs/lake/ppo", [0.25], 0, "ppo", "FrozenLake-v1")
    make_run(tmp_path / "runs/lake/dqn", [0.75], 0, "dqn", "FrozenLake-v1")
    return tmp_path / "runs"


TABLE = """\
CartPole-v1: return of the greedy policy in the last tenth of training
     seeds  steps    IQM    95% interval  worst   best
ppo      5    200  300.0  133.3 to 466.7  100.0  500.0
dqn      3    200  150.0  100.0 to 200.0  100.0  200.0

Probability of improvement
              probability  95% interval
ppo over dqn          80%   47% to 100%

FrozenLake-v1: return of the greedy policy in the last tenth of training
     seeds  steps    IQM  95% interval  worst   best
dqn      1    100  0.750             -  0.750  0.750
ppo      1    100  0.250             -  0.250  0.250

Probability of improvement
              probability  95% interval
dqn over ppo         100%             -

IQM: interquartile mean of the seeds. Intervals are bootstrapped.
1 seed: differences may be chance.
"""


def test_the_table_has_a_row_for_each_group_and_each_pair(runs):
    comparison = tfpg.compare(runs)
    assert f"{comparison}\n" == f"{comparison!r}\n" == TABLE
    ppo, dqn, *_ = comparison.scores
    assert (ppo.seeds, ppo.score, ppo.worst, ppo.best) == (5, 300, 100, 500)
    assert comparison.improvements[0].probability == pytest.approx(12 / 15)
    assert (dqn.env, dqn.group, dqn.env_steps) == ("CartPole-v1", "dqn", 200)


@pytest.mark.parametrize(("seeds", "few"), [(4, True), (5, False)])
def test_fewer_than_five_seeds_are_few(tmp_path, seeds, few):
    for seed in range(seeds):
        make_run(tmp_path / f"{seed}", [seed], seed)
    comparison = tfpg.compare(tmp_path)
    assert comparison.few_seeds == few
    assert comparison.notes == (
        ("4 seeds: other seeds may give different results.",) if few else ()
    )


@pytest.mark.parametrize(("points", "noted"), [(1, False), (3, True)])
def test_runs_of_different_lengths_are_noted(tmp_path, points, noted):
    make_run(tmp_path / "short", [1.0], 0)
    make_run(tmp_path / "long", [1.0] * points, 0, "dqn")
    notes = " ".join(tfpg.compare(tmp_path).notes)
    assert ("In CartPole-v1, some runs are much longer than others" in notes) == noted


def test_long_labels_have_a_line_of_their_own(tmp_path):
    names = [f"{letter} with a very long name that explains everything" for letter in "ab"]
    groups = {}
    for name in names:
        groups[name] = [make_run(tmp_path / name / f"{i}", [9e6 + i], i) for i in range(3)]
    lines = str(tfpg.compare({"short": groups[names[0]][:2], **groups})).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2] == names[0]
    assert lines[3].split() == [
        "3",
        "100",
        "9,000,001",
        "9,000,000",
        "to",
        "9,000,002",
        "9,000,000",
        "9,000,002",
    ]
    assert lines[6].split()[0] == "short"


def test_scores_have_digits_that_suit_their_size(tmp_path):
    make_run(tmp_path / "small", [0.5], env="small")
    make_run(tmp_path / "large", [-12345.67], env="large")
    text = str(tfpg.compare(tmp_path))
    assert "0.500" in text
    assert "-12,346" in text


def test_notebooks_show_tables_with_escaped_labels(runs):
    comparison = tfpg.compare({"<b>": runs / "ppo", "dqn": runs / "dqn"})
    data, _ = DisplayFormatter().format(comparison)
    root = ElementTree.fromstring(f"<div>{data['text/html']}</div>")
    tables = root.findall("table")
    assert [len(table.findall("tr")) for table in tables] == [3, 2]
    assert [cell.text for cell in tables[0].findall("tr")[1]][:2] == ["<b>", "5"]
    assert root.findall("p")[-1].text == "3 seeds: differences may be chance."


def command(*args, cwd):
    return subprocess.run(
        [sys.executable, "-m", "tfpg", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


class TestCommands:
    def test_compare_prints_the_table_and_draws(self, runs):
        done = command("compare", "ppo", "dqn", "lake", "--out", "scores.png", cwd=runs)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{TABLE}\nscores.png\n"
        with Image.open(runs / "scores.png") as picture:
            assert picture.width == 1680

    def test_compare_prints_json(self, runs):
        done = command("compare", "lake", "--json", cwd=runs)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {
            "metric": "val_episode_return",
            "scores": [
                {
                    "env": "FrozenLake-v1",
                    "group": group,
                    "seeds": 1,
                    "env_steps": 100,
                    "score": x,
                    "low": None,
                    "high": None,
                    "worst": x,
                    "best": x,
                }
                for group, x in (("dqn", 0.75), ("ppo", 0.25))
            ],
            "improvements": [
                {
                    "env": "FrozenLake-v1",
                    "group": "dqn",
                    "other": "ppo",
                    "probability": 1,
                    "low": None,
                    "high": None,
                }
            ],
            "few_seeds": True,
            "notes": ["1 seed: differences may be chance."],
        }

    def test_plot_draws_and_prints_the_path(self, runs):
        done = command("plot", "ppo", "dqn", cwd=runs)
        assert (done.returncode, done.stdout, done.stderr) == (0, "curves.png\n", "")
        done = command("plot", ".", "--out", "a.svg", "--dark", "--metric", "epoch", cwd=runs)
        assert (done.returncode, done.stdout, done.stderr) == (0, "a.svg\n", "")
        assert ElementTree.parse(runs / "a.svg").getroot().tag.endswith("svg")

    @pytest.mark.parametrize("name", ["plot", "compare"])
    def test_errors_are_one_line(self, runs, name):
        make_run(runs / "new", [])
        for arg, message in (
            ("nothing", "No run at 'nothing': pass a run folder."),
            ("new", "'new' has no metrics yet: no iteration has ended."),
        ):
            done = command(name, arg, cwd=runs)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"tfpg: error: {message}\n"

    def test_a_run_that_has_just_begun_is_a_warning_of_one_line(self, runs):
        make_run(runs / "new", [])
        done = command("compare", ".", cwd=runs)
        assert (done.returncode, done.stdout) == (0, TABLE)
        assert done.stderr == "tfpg: warning: 'new' is left out: it has no metrics yet.\n"
