"""The rules that CONTRIBUTING.md states about the code, each one a test."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tfpg"
FILES = sorted(PACKAGE.rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))

# A package imports from lower tiers, from itself, and from the packages listed in SIDEWAYS.
TIERS = [
    ["errors", "schedules", "core"],
    ["ops", "envs", "checkpoints"],
    ["models"],
    ["rollouts"],
    ["video", "callbacks", "agents"],
    ["results"],
    ["checks", "sharing"],
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
LATE = {"matplotlib", "imageio", "av", "PIL", "pyvirtualdisplay", "pygame", "Xlib"}
LATE |= {"ale_py", "cv2", "ray", "mujoco", "IPython", "onnx", "onnxruntime", "tf2onnx", "plotly"}


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


LIGHT = {"core", "ops", "envs", "checkpoints", "results", "checks", "cli", "sharing"}
LIGHT |= {"errors", "schedules"}


def modules_after(imports):
    """The modules that a new Python has loaded after some imports."""
    code = f"import sys, {', '.join(imports)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_light_packages_and_the_options_of_agents_import_no_tensorflow():
    light = [module for module in MODULES if entry(module) in LIGHT]
    agents = ["reinforce", "a2c", "ppo", "dqn", "presets"]
    loaded = modules_after([*light, *(f"tfpg.agents.{name}" for name in agents)])
    assert not loaded & {"tensorflow", "keras"}


def test_importing_ppo_loads_at_most_35_modules_of_tfpg():
    loaded = modules_after(["tfpg.agents.ppo"])
    assert sum(name.split(".")[0] == "tfpg" for name in loaded) <= 35


def test_vector_environments_are_stepped_by_the_loop_and_replayed_on_resume_alone():
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("envs.step"):
                found.add(path.name)
    assert found == {"loop.py", "env_state.py"}


# Names with an underscore that other libraries document, or that have no public equivalent.
FOREIGN_PRIVATES = {
    *("_replace", "_asdict", "_make", "_fields"),  # the public interface of named tuples
    "_exit",  # os: ends a process as a crash does
    "_getframe",  # sys: the line outside tfpg that a warning is about
    "_inference_function",  # tf.function: the quickest way to call it
    "_inbound_nodes",  # Keras: how often a layer is called
    "_initial_epoch",  # keras.Model: where BackupAndRestore says a training continues
    "_keras_history",  # Keras: the operation that made a symbolic tensor
    "_all_reduce_sum_gradients",  # Keras: an operation that TensorFlow keeps for good
    "_learning_rate",  # Keras's optimizers: the schedule, which `learning_rate` evaluates
    "_omit_frequent_tracing_warning",  # tf.function: agents made in a loop are no retracing
    *("_container", "_video_stream"),  # imageio's PyAV plugin: settings of the encoder
    *("_obj", "_subproc"),  # pyvirtualdisplay: the process of Xvfb,
    "_elapsed_steps",  # of gymnasium.wrappers.TimeLimit
}


def test_imports_have_no_cycles():
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def is_private(name):
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def is_own(node):
    """Whether an attribute is one of ``self``, ``cls`` or ``super()``."""
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super")


def defined_names(tree):
    """The names of functions, classes, variables and attributes that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
            yield node.attr


def foreign_privates(path):
    """The private names of other files that a file uses, with their lines."""
    tree = ast.parse(path.read_text())
    known = FOREIGN_PRIVATES | set(defined_names(tree))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Attribute) and not is_own(node):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            names = [x.value for x in node.args if isinstance(x, ast.Constant)]  # of getattr
        yield from (f"{node.lineno}: {x}" for x in names if is_private(x) and x not in known)


@pytest.mark.parametrize("module", MODULES)
def test_private_names_are_used_in_their_own_file_alone(module):
    assert not list(foreign_privates(MODULES[module]))


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.name)
def test_tests_touch_no_private_names(path):
    assert not list(foreign_privates(path))


def lines_of_code(function, lines):
    """The lines of a function that are not blank, a comment or its docstring."""
    skipped = set()
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        skipped = set(range(docstring.lineno, docstring.end_lineno + 1))
    numbers = set(range(function.lineno, function.end_lineno + 1)) - skipped
    return sum(
        not lines[n - 1].strip().startswith("#") and bool(lines[n - 1].strip()) for n in numbers
    )


def test_functions_have_at_most_60_lines_of_code():
    for path in FILES:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = lines_of_code(node, text.splitlines())
                assert lines <= 60, f"{path.relative_to(PACKAGE)}: {node.name}"


def test_the_map_in_contributing_names_every_file():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    start = text.index("## Map of the code")
    words = set(text[start : text.index("## Rules")].replace("/", " ").split())
    assert not {path.name for path in FILES if path.name != "__init__.py"} - words
