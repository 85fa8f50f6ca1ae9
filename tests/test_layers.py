"""The house stands: imports go down a layer, or sideways inside one folder, never up."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tfpg"

LAYERS = {
    0: ["types", "backend", "errors", "files", "memory", "safety", "seeding", "signals"],
    1: ["ops", "distributions", "schedules", "resuming"],
    2: [
        *("graph", "observations", "statistics", "networks", "mirror", "heads", "requirements"),
        *("policy", "critic", "replay", "envs", "actions"),
    ],
    3: ["playing", "position", "recording", "collector", "evaluation", "rendering"],
    4: [
        "agents",
        "callbacks",
        "checking",
        "checkpoint",
        "doctor",
        "filming",
        "plotting",
        "progress",
        "report",
        "runs",
        "trial",
    ],
    5: [
        *("presets", "argument_types", "arguments", "arguments_train", "startup"),
        *("cli_check", "cli_train", "cli_verify", "cli", "__main__"),
    ],
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}
# Importing these takes seconds or needs a system package: only inside the function that does.
LATE = {"matplotlib", "imageio", "av", "PIL", "pyvirtualdisplay", "pygame", "Xlib"}
LATE |= {"ale_py", "cv2", "ray", "mujoco", "IPython"}
# What the command line imports before it has checked its arguments.
WITHOUT_TENSORFLOW = [
    "__init__",
    "__main__",
    "actions",
    "argument_types",
    "arguments",
    "arguments_train",
    "cli",
    "cli_check",
    "cli_train",
    "doctor",
    "presets/__init__",
    "presets/measured",
    "runs",
    "schedules",
    "signals",
    "startup",
    "trial",
]
WITHOUT_TENSORFLOW += [
    f"checking/{name}" for name in ("__init__", "contracts", "look", "trying", "verdicts")
]
WITHOUT_TENSORFLOW += ["files", "memory", "seeding", "types", "errors", "observations"]
WITHOUT_TENSORFLOW += [
    f"safety/{x}" for x in ("__init__", "allowed", "archive", "configs", "weights")
]
WITHOUT_TENSORFLOW += ["envs/__init__", "envs/make", "envs/atari", "ops/__init__", "ops/returns"]
# What a worker process imports.
WITHOUT_TENSORFLOW += ["envs/parked", "envs/serving", "envs/workers"]
WITHOUT_TENSORFLOW += [
    f"rendering/{name}" for name in ("__init__", "display", "encoders", "frames")
]
WITHOUT_TENSORFLOW += [
    f"resuming/{name}"
    for name in ("__init__", "checkpoints", "compare", "disk", "later", "records", "store")
]
WITHOUT_TENSORFLOW += ["resuming/versions", "resuming/writing"]
WITHOUT_TENSORFLOW += ["rendering/stage", "rendering/video", "rendering/window"]

FILES = sorted(PACKAGE.rglob("*.py"))


def _imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    if top_level_only:
        nodes = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    else:
        nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "tfpg":
                yield from (f"tfpg.{alias.name}" for alias in node.names)
            else:
                yield node.module
        else:
            yield from (alias.name for alias in node.names)


def _place(parts):
    return LAYER[parts[0]]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_or_sideways(path):
    place = path.relative_to(PACKAGE).with_suffix("").parts
    if place == ("__init__",):
        return
    layer = _place(place)
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "tfpg" or len(parts) == 1 or parts[1].startswith("__"):
            continue
        assert _place(parts[1:]) <= layer, f"{path.name} (layer {layer}) imports {name}"


def test_every_module_has_a_layer():
    top = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in FILES} - {"__init__"}
    assert top <= set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_slow_and_optional_packages_are_imported_late(path):
    found = {name.split(".")[0] for name in _imports(path, top_level_only=True)}
    assert not found & LATE


@pytest.mark.parametrize("name", WITHOUT_TENSORFLOW)
def test_the_command_line_does_not_import_tensorflow_early(name):
    found = {n.split(".")[0] for n in _imports(PACKAGE / f"{name}.py", top_level_only=True)}
    assert not found & {"tensorflow", "keras"}


def test_ops_know_no_environment_and_no_model():
    for path in (PACKAGE / "ops").glob("*.py"):
        found = {name.split(".")[0] for name in _imports(path)}
        assert not found & {"gymnasium", "keras"}, path.name


def test_nothing_unsafe_is_imported():
    for path in FILES:
        found = {name.split(".")[0] for name in _imports(path)}
        assert not found & {"pickle", "dill", "cloudpickle", "joblib", "moviepy"}, path.name
        assert "eval(" not in path.read_text().replace("_eval(", ""), path.name


def test_files_stay_small_enough_to_read():
    long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 350}
    assert not long
