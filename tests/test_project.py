"""The files about the project: they parse, and agree with the package."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import tfpg

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOW = ROOT / ".github/workflows/test.yml"
VERSIONS = ROOT / ".github/workflows/versions.yml"
CITATION = ROOT / "CITATION.cff"


def setup():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_citation_has_the_version_and_the_license_of_the_package():
    text = CITATION.read_text()
    assert f"\nversion: {tfpg.__version__}\n" in text
    assert f"\nlicense: {setup()['metadata']['license']}\n" in text


def test_the_same_pythons_are_tested_declared_and_found_by_the_scripts():
    declared = re.findall(r"Python :: (3\.\d+)", setup()["metadata"]["classifiers"])
    tested = re.search(r"python: \[(.*)\]", WORKFLOW.read_text())[1]
    found = re.search(r"candidate in (.*); do", (ROOT / "scripts/setup.sh").read_text())[1]
    assert re.findall(r"3\.\d+", tested) == declared
    assert sorted(re.findall(r"3\.\d+", found)) == declared
    assert re.findall(r'"(3\.\d+)"', VERSIONS.read_text()) == declared


def test_the_script_tests_every_tensorflow_that_may_be_installed():
    script = (ROOT / "scripts/versions.py").read_text()
    tested = re.findall(r'"2\.(\d+)"', re.search(r"TENSORFLOW = \[(.*)\]", script)[1])
    extras = setup()["options.extras_require"]
    required = [setup()["options"]["install_requires"], extras["gpu"], extras["tensorboard"]]
    for each in required:
        first, last = re.search(r"tensor(?:flow|board).*>=2\.(\d+),<2\.(\d+)", each).groups()
        assert [int(minor) for minor in tested] == [*range(int(first), int(last))]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def files_of(names):
    return {name for name in names if not name.endswith("/")}


def in_clone(*folders):
    found = (p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file())
    return {str(p.relative_to(ROOT)) for p in found if "__pycache__" not in p.parts}


def size_of_zoo():
    return sum(path.stat().st_size for path in (ROOT / "tfpg/zoo").rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = files_of(archive.namelist())
        metadata = f"tfpg-{tfpg.__version__}.dist-info"
        assert {n for n in names if not n.startswith(f"{metadata}/")} == in_clone("tfpg")
        assert "tfpg/py.typed" in names
        license_text = archive.read(f"{metadata}/licenses/LICENSE")
    assert license_text == (ROOT / "LICENSE").read_bytes()
    assert built[1].stat().st_size - size_of_zoo() < 500_000


@pytest.mark.slow
def test_the_sdist_has_what_the_tests_need_and_no_videos_or_pictures(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    pictures = {name for name in in_clone("docs") if name.endswith(".png")}
    assert in_clone("tests", "scripts", "docs") - pictures <= names
    assert {"requirements.txt", "CONTRIBUTING.md", "LICENSE", "setup.cfg"} <= names
    assert not any(name.startswith("videos") or name in pictures for name in names)
    assert built[0].stat().st_size - size_of_zoo() < 1_000_000


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(built, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*command):
        done = subprocess.run(
            [*map(str, command)],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", installed, built[1])
    assert Path(run(sys.executable, "-c", "import tfpg; print(tfpg.__file__)")) == (
        installed / "tfpg/__init__.py"
    )
    program = installed / "bin/tfpg"
    assert run(program, "--version") == f"tfpg {tfpg.__version__}"
    run(program, "train", "reinforce", "CartPole-v1", "--iterations", "1", "--run", "run")
    assert "3 greedy episodes" in run(program, "evaluate", "run", "--episodes", "3")


def test_yaml_files_are_indented_by_pairs_of_spaces():
    for path in [*FORMS, WORKFLOW, VERSIONS, CITATION]:
        for line in path.read_text().splitlines():
            assert re.fullmatch(r"(  )*(\S.*)?", line), f"{path.name}: {line!r}"
            assert line == line.rstrip(), f"{path.name}: {line!r}"


def test_yaml_files_parse():
    yaml = pytest.importorskip("yaml")
    assert len(FORMS) == 2
    for path in FORMS:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form)
        fields = [each for each in form["body"] if each["type"] == "textarea"]
        assert {"example", "doctor"} < {each["id"] for each in fields}
    citation = yaml.safe_load(CITATION.read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The tfpg contributors"}]
    for path, last in [
        (WORKFLOW, "./scripts/test.sh"),
        (VERSIONS, "python scripts/versions.py"),
    ]:
        (job,) = yaml.safe_load(path.read_text())["jobs"].values()
        assert job["steps"][-1] == {"run": last}
