"""The tutorials that need a file of the reader's: it is saved, and the other blocks use it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs/tutorials"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (TUTORIALS / page).read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inventory.py").write_text(blocks("your_environment.md", "python")[0])
    return tmp_path


def output_of(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_environment_passes_the_check(folder):
    command = ["-m", "tfpg", "check", "inventory:Inventory-v0", "--seconds", "5"]
    report = output_of(folder, sys.executable, *command)
    assert "problem" not in report
    assert "warning" not in report


@pytest.mark.slow
@pytest.mark.parametrize("page", ["your_environment.md", "your_network.md"])
def test_the_examples_of_a_page_run_next_to_the_environment(folder, page):
    examples = blocks(page, "py")
    assert examples
    for example in examples:
        short = re.sub(r"env_steps=[\d_]+", "env_steps=4000", example)
        returned = float(output_of(folder, sys.executable, "-c", short).splitlines()[-1])
        assert returned > 100  # random play gets 153


@pytest.mark.slow
def test_the_commands_of_a_page_run_next_to_the_environment(folder):
    for commands in blocks("your_environment.md", "bash"):
        for command in commands.splitlines():
            short = command.replace("--env-steps 100000", "--env-steps 4000")
            output_of(folder, sys.executable, "-m", *short.split())
    assert (folder / "inventory.gif").exists()
