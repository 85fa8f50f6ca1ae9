"""The files about the project: they parse, and agree with the package."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

import tfpg

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOW = ROOT / ".github/workflows/test.yml"
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


def test_yaml_files_are_indented_by_pairs_of_spaces():
    for path in [*FORMS, WORKFLOW, CITATION]:
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
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    assert job["steps"][-1] == {"run": "./scripts/test.sh"}
