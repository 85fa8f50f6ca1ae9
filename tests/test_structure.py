"""The rules that CONTRIBUTING.md states about the code, each one a test."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tfpg"
FILES = sorted(PACKAGE.rglob("*.py"))

# A package imports from lower tiers, from itself, and from the packages listed in SIDEWAYS.
TIERS = [
    ["errors", "schedules", "core"],
    ["ops", "envs", "checkpoints"],
    ["models"],
    ["rollouts"],
    ["video", "callbacks", "agents"],
    ["checks"],
    ["cli"],
    ["__init__", "__main__"],
]
TIER = {name: tier for tier, names in enumerate(TIERS) for name in names}
SIDEWAYS = {
    ("core", "errors"),
    ("errors", "core"),
    ("callbacks", "video"),
    ("agents", "callbacks"),  # the progress bar
}
# Importing these takes seconds or needs a system package: only inside the function that does.
LATE = {"matplotlib", "av", "PIL", "pyvirtualdisplay", "pygame", "Xlib"}
LATE |= {"ale_py", "cv2", "ray", "mujoco", "IPython"}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(path, top_level_only=False):
    """The names of modules that a file imports, ``TYPE_CHECKING`` included."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def entry(module):
    """The entry of the package's top that a module belongs to."""
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_a_tier(module):
    here = entry(module)
    for name in imports(MODULES[module]):
        there = entry(name)
        if not name.startswith("tfpg.") or here in (there, "__init__"):
            continue
        down = TIER[there] < TIER[here]
        assert down or (here, there) in SIDEWAYS, f"{module} imports {name}"


def test_every_entry_of_the_package_has_a_tier():
    assert {entry(module) for module in MODULES} <= set(TIER)


@pytest.mark.parametrize("module", MODULES)
def test_slow_and_optional_packages_are_imported_late(module):
    found = {name.split(".")[0] for name in imports(MODULES[module], top_level_only=True)}
    assert not found & LATE


def test_modules_take_tensorflow_and_keras_from_the_backend():
    for module, path in MODULES.items():
        if module != "tfpg.core.backend":
            found = {name.split(".")[0] for name in imports(path, top_level_only=True)}
            assert not found & {"tensorflow", "keras"}, module


def test_ops_know_no_environment():
    for path in (PACKAGE / "ops").rglob("*.py"):
        assert "gymnasium" not in {name.split(".")[0] for name in imports(path)}, path.name


def test_nothing_unsafe_is_imported():
    for path in FILES:
        found = {name.split(".")[0] for name in imports(path)}
        assert not found & {"pickle", "dill", "cloudpickle", "joblib", "moviepy"}, path.name
        assert "eval(" not in path.read_text().replace("_eval(", ""), path.name


def test_a_module_name_occurs_once():
    counts = Counter(path.stem for path in FILES if path.stem != "__init__")
    assert not {name for name, count in counts.items() if count > 1}
