"""The notebook in docs/: it runs as committed, and is small and free of traces of a machine."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs/quickstart.ipynb"
# An absolute path: /folder/... or C:\..., but no URL, closing tag or relative path.
ABSOLUTE = re.compile(r"(?:^|[\s\"'`(=])(?:/\w[\w.-]*/|[A-Z]:\\)", re.MULTILINE)
# TensorFlow's C++ code logs these while it is imported.
START_UP = re.compile(r"(?:WARNING: All log messages before absl|[IW]\d{4} ).*\n?")


def code_cells(book):
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def joined(lines):
    return lines if isinstance(lines, str) else "".join(lines)


def texts(cell):
    """The source and the outputs of a cell, without images."""
    yield joined(cell["source"])
    for output in cell.get("outputs", ()):
        yield joined(output.get("text", ""))
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield joined(data)


def kinds(cell):
    """What the outputs of a cell are: the name of a stream, or the types of what is displayed."""
    return [output.get("name") or sorted(output["data"]) for output in cell["outputs"]]


def test_the_committed_notebook_was_run_from_top_to_bottom_without_errors():
    cells = code_cells(json.loads(NOTEBOOK.read_text()))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell["outputs"], cell["id"]
        assert not {"stderr", "error"} & {x.get("name", x["output_type"]) for x in cell["outputs"]}


def test_the_committed_notebook_is_small_and_has_no_traces_of_the_machine_that_ran_it():
    book = json.loads(NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    assert set(book["metadata"]["language_info"]) == {"name"}  # no version
    for cell in book["cells"]:
        assert cell["metadata"] == {}, cell["id"]
        for text in texts(cell):
            assert not ABSOLUTE.search(text), cell["id"]


@pytest.mark.slow
def test_the_notebook_runs_without_a_display_and_shows_what_was_committed(tmp_path, no_display):
    pytest.importorskip("ipykernel")
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    committed = code_cells(json.loads(NOTEBOOK.read_text()))
    book = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
    cells = code_cells(book)
    for cell, before in zip(cells, committed, strict=True):
        errors = [x for x in cell.outputs if x.get("name") == "stderr"]
        assert START_UP.sub("", "".join(x.text for x in errors)).strip() == "", cell.id
        cell.outputs = [x for x in cell.outputs if x not in errors]
        assert kinds(cell) == kinds(before), cell.id
        if cell.id in ("discount", "batch", "standardize", "fused"):
            assert list(texts(cell)) == list(texts(before)), cell.id
    (score,) = (cell.outputs[0].data["text/plain"] for cell in cells if cell.id == "evaluate")
    assert float(score) > 400  # of at most 500
    assert {path.name for path in tmp_path.iterdir()} == {"cartpole.gif", "cartpole.keras"}
