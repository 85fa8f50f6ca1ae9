"""``tfpg presets``."""

import json
import subprocess
import sys

from tfpg.agents.presets import PRESETS


def run(*args):
    command = [sys.executable, "-m", "tfpg", "presets", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_preset_has_a_row_that_fits_in_a_terminal():
    rows = run().splitlines()
    assert len(rows) == 1 + len(PRESETS) + 1
    assert "zoo:" in rows[-1]
    assert max(map(len, rows)) <= 80
    assert rows[0].split() == ["algorithm", "environment", "env", "steps", "score"]
    assert "ppo        CartPole-v1                   100,000  500 (500 to 500)" in rows


def test_json_has_them_all():
    found = json.loads(run("--json"))["presets"]
    assert [(each["algorithm"], each["env"]) for each in found] == list(PRESETS)
    assert found[0]["score"] == {"mean": 500.0, "low": 500.0, "high": 500.0}
