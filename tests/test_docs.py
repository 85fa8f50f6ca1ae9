"""Every example in a docstring runs, and what the README shows is true."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from marks import slow_but

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in (ROOT / "tfpg").rglob("*.py")
    if p.name != "__main__.py"
)
TRAINING = {f"tfpg.{name}" for name in ["agents.a2c", "agents.dqn", "agents.ppo", "callbacks"]}


@pytest.mark.parametrize("name", slow_but([m for m in MODULES if m not in TRAINING], MODULES))
def test_docstring_examples(name, request):
    if name == "tfpg.video.display":
        request.getfixturevalue("xvfb")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def public_objects():
    import tfpg

    for name in tfpg.__all__:
        if not name.startswith("__"):
            yield name, getattr(tfpg, name)


def test_every_public_name_has_a_docstring():
    for name, thing in public_objects():
        assert thing.__doc__, name


def test_the_three_lines_of_the_readme_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    code = blocks[0].replace("iterations=100", "iterations=2")
    assert code != blocks[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in tmp_path.iterdir()] == ["cartpole.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize("document", ["docs/videos.md", "docs/environments.md"])
def test_the_examples_of_a_page_run(document, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert blocks
    for code in blocks:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]


def test_files_the_readme_links_to_exist():
    for document in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", (ROOT / document).read_text()):
            target = link[0] or link[1]
            if not target.startswith(("http", "mailto")):
                assert (ROOT / target).exists(), f"{document}: {target}"


def test_the_version_is_in_the_changelog():
    import tfpg

    assert f"## {tfpg.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_names_are_listed_and_unknown_ones_refused():
    import tfpg

    assert set(tfpg.__all__) <= set(dir(tfpg))
    with pytest.raises(AttributeError, match="no attribute 'Reinfroce'"):
        _ = tfpg.Reinfroce
