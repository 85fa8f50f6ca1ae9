"""Examples in docstrings, README and pages run, and links and names exist."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from marks import slow_but

import tfpg

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in (ROOT / "tfpg").rglob("*.py")
    if p.name != "__main__.py"
)
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "```python" in path.read_text() and path.name != "extending.md"  # see test_extending.py
]
TRAINING = {f"tfpg.{name}" for name in ["agents.a2c", "agents.dqn", "agents.ppo", "callbacks"]}


@pytest.mark.parametrize("name", slow_but([m for m in MODULES if m not in TRAINING], MODULES))
def test_the_examples_in_docstrings_run(name, request):
    if name == "tfpg.video.display":
        request.getfixturevalue("xvfb")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_every_public_name_exists_and_has_a_docstring():
    assert set(tfpg.__all__) <= set(dir(tfpg))
    for name in tfpg.__all__:
        assert name.startswith("__") or getattr(tfpg, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'Reinfroce'"):
        _ = tfpg.Reinfroce


def python_blocks(document):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert blocks
    return blocks


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_three_lines_of_the_readme_run(tmp_path):
    block = python_blocks("README.md")[0]
    assert "iterations=100" in block
    run(block.replace("iterations=100", "iterations=2"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["cartpole.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize("document", PAGES)
def test_the_examples_of_a_page_run_with_fewer_iterations(document, tmp_path):
    blocks = [re.sub(r"iterations=\d+", "iterations=2", x) for x in python_blocks(document)]
    blocks = [re.sub(r"\benv_steps=[\d_]+", "env_steps=4000", x) for x in blocks]
    run(f"for block in {blocks!r}:\n    exec(block, {{}})", tmp_path)


def test_the_files_that_documents_link_to_exist():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/RESULTS.md"]
    documents.append(ROOT / "docs/quickstart.ipynb")
    for document in documents:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", document.read_text()):
            target = link[0] or link[1]
            if not target.startswith(("http", "mailto")):
                assert (document.parent / target).exists(), f"{document}: {target}"


def test_the_version_is_in_the_changelog():
    assert f"## {tfpg.__version__}" in (ROOT / "CHANGELOG.md").read_text()
