"""Examples in docstrings, README and pages run, and links and names exist."""

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from marks import slow_but

import tfpg
from tfpg.cli.command import Command
from tfpg.cli.main import tfpg_command

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
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
]
TRAINING = {
    f"tfpg.{name}" for name in ["agents.a2c", "agents.dqn", "agents.ppo", "agents.sac", "callbacks"]
}


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


def blocks_of(document, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def python_blocks(document):
    blocks = blocks_of(document, "python")
    assert blocks
    return blocks


def commands_of(document):
    """The words of each command in the shell blocks of a document, except in scripts."""
    for block in blocks_of(document, "bash"):
        if block.startswith("#!"):
            subprocess.run(["bash", "-n", "-c", block], check=True)  # its syntax is valid
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                if words := shlex.split(command, comments=True):
                    yield words


def package_needed(block):
    """The package that the comment of an import says to install, Ray, or None."""
    if "tfpg.RayWorkers" in block:
        return "ray"
    found = re.search(r"^import (\w+)  # pip install \1$", block, re.MULTILINE)
    return found and found[1]


def shortened(block):
    block = re.sub(r"iterations=\d+", "iterations=2", block)
    return re.sub(r"\benv_steps=[\d_]+", "env_steps=4000", block)


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
    blocks = [shortened(x) for x in python_blocks(document) if not package_needed(x)]
    run(f"for block in {blocks!r}:\n    exec(block, {{}})", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [x for document in PAGES for x in blocks_of(document, "python") if package_needed(x)],
    ids=lambda block: package_needed(block),
)
def test_an_example_with_an_optional_package_runs(block, tmp_path):
    pytest.importorskip(package_needed(block))
    run(shortened(block), tmp_path)


@pytest.mark.parametrize("document", [x for x in DOCUMENTS if blocks_of(x, "bash")])
def test_the_shell_commands_of_a_document_are_valid(document, tmp_path, monkeypatch):
    (tmp_path / "cross_entropy.py").write_text(blocks_of("docs/extending.md", "python")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cross_entropy", raising=False)
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for program, *args in commands_of(document):
        if program == "tfpg":  # parsed, but not executed
            assert isinstance(tfpg_command.main(args, standalone_mode=False), Command)
        elif program == "pip":
            extras = re.findall(r"[\w]+", args[-1]) if "[" in args[-1] else []
            assert set(extras) <= set(setup["options.extras_require"])
        elif program == "python" or program.startswith("./"):
            assert (ROOT / (args[0] if program == "python" else program)).is_file()
        else:
            assert program in ("export", "pre-commit", "sphinx-build", "tensorboard"), program


@pytest.mark.slow
def test_the_shell_commands_of_the_readme_run_with_one_seed_and_iteration(tmp_path):
    commands = [args for program, *args in commands_of("README.md") if program == "tfpg"]
    assert [args[0] for args in commands] == [
        "record",
        "train",
        "train",
        "plot",
        "compare",
        "record",
    ]
    for args in commands:
        if args[0] == "train":
            args[args.index("--seeds") + 1] = "1"
            args += ["--iterations=1", "--validation-episodes=1", "--no-video"]
        done = subprocess.run(
            [sys.executable, "-m", "tfpg", *args], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, (args, done.stderr[-2000:])
    files = {"runs", "acrobot.mp4", "curves.png", "scores.png", "cartpole.mp4"}
    assert {x.name for x in tmp_path.iterdir()} == files


def test_the_files_that_documents_link_to_exist():
    for document in [ROOT / x for x in (*DOCUMENTS, "docs/quickstart.ipynb")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", document.read_text()):
            target = link[0] or link[1]
            if not target.startswith(("http", "mailto")):
                assert (document.parent / target).exists(), f"{document}: {target}"


def test_the_version_is_in_the_changelog():
    assert f"## {tfpg.__version__}" in (ROOT / "CHANGELOG.md").read_text()
