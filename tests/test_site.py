"""The documentation site, built as users build it: complete, without warnings, and offline."""

import html
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import tfpg
from tfpg.cli.main import tfpg_command
from tfpg.core.options import options_of

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[1] / "docs"
AGENTS = [tfpg.Reinforce, tfpg.A2C, tfpg.PPO, tfpg.DQN]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a new site. Warnings are errors."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("docs") / "html"
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, folder],
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.fixture(scope="module")
def documented(site):
    """The Python names that the API reference explains."""
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    return {name for kind, name in pairs(inventory) if kind.startswith("py:")}


def pairs(inventory):
    return ((kind, name) for kind, names in inventory.data.items() for name in names)


def own_names(module, public=None):
    """The public classes and functions that a module defines, under its public name."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if own and not name.startswith("_") and (inspect.isclass(value) or callable(value)):
            yield f"{public or module.__name__}.{name}"


def public_names():
    for name in tfpg.__all__:
        if not (name.startswith("__") or inspect.ismodule(getattr(tfpg, name))):
            yield f"tfpg.{name}"
    for name in ("callbacks", "envs", "checks"):
        package = importlib.import_module(f"tfpg.{name}")
        yield from (f"tfpg.{name}.{each}" for each in package.__all__)
    functional = importlib.import_module("tfpg.envs.functional")
    lazy = set(dir(functional)) - set(vars(functional))
    yield from (f"tfpg.envs.functional.{each}" for each in lazy)
    for name in ("networks", "presets"):
        yield from own_names(getattr(tfpg, name), f"tfpg.{name}")
    for name in ("schedules", "errors", "core.options"):
        yield from own_names(importlib.import_module(f"tfpg.{name}"))
    for each in pkgutil.iter_modules(importlib.import_module("tfpg.ops").__path__, "tfpg.ops."):
        if each.name != "tfpg.ops.numeric":  # NumPy's functions, for tensors too
            yield from own_names(importlib.import_module(each.name))


def imported_in_examples():
    for page in DOCS.rglob("*.md"):
        for module, names in re.findall(r"^from (tfpg\S*) import (.*)$", page.read_text(), re.M):
            yield from (f"{module}.{name.strip()}" for name in names.split("#")[0].split(","))


def test_every_public_name_is_in_the_reference(documented):
    assert set(public_names()) - documented == set()


def test_what_the_examples_import_is_in_the_reference(documented):
    wanted = {name for name in imported_in_examples() if name != "tfpg.cli.main.main"}
    assert "tfpg.envs.open_vec" in wanted
    assert wanted - documented == set()


def text_of(page, start, end):
    """The text between two tags of a page."""
    source = page.read_text()
    first = source.index(start)
    text = re.sub(r"</(dt|dd|p|li|pre)>", " ", source[first : source.index(end, first)])
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text)))


@pytest.mark.parametrize("agent", AGENTS)
def test_every_option_of_an_agent_is_shown_with_its_type_default_and_help(site, agent):
    start = f'id="tfpg.{agent.__name__}"'
    text = text_of(site / "api/agents.html", start, '<dt class="sig')
    for each in options_of(agent).values():
        entry = re.search(rf" {each.name} \(([^)]+)\) \S (.*)", text)
        assert entry, each.name
        assert "Any" not in entry[1]
        default = f" Default: {each.default!r}." if each.in_config else ""
        assert entry[2].startswith(each.help.replace("`", "") + default)


def commands(command, words=("tfpg",)):
    """Every command with its words."""
    yield words, command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            yield from commands(command.get_command(ctx, name), (*words, name))


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*x, id=" ".join(x[0])) for x in commands(tfpg_command)]
)
def test_every_option_of_a_command_is_shown(site, words, command):
    text = text_of(site / "command_line.html", f'<section id="{"-".join(words)}"', "</section>")
    for each in command.params:
        names = each.opts if isinstance(each, click.Option) else [each.human_readable_name]
        for name in [*names, *each.secondary_opts]:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), name


def test_every_page_is_in_the_navigation(site):
    text = (site / "index.html").read_text()
    tree = text[text.index('class="sidebar-tree"') : text.index('class="main"')]
    links = set(re.findall(r'href="([^"#:]+)\.html"', tree))
    pages = {
        path.relative_to(DOCS).with_suffix("").as_posix()
        for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
        if "_build" not in path.parts
    }
    assert pages - {"index"} <= links


def test_nothing_is_loaded_from_elsewhere(site):
    loading = re.compile(r"<(?:script|link|img|source|iframe)\b[^>]*?(?:src|href)=\"(?:https?:)?//")
    for page in site.rglob("*.html"):
        assert not loading.search(page.read_text()), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text()), style.name


def test_the_notebook_is_shown_with_its_formulas_figures_and_videos(site):
    text = (site / "quickstart.html").read_text()
    assert "<math" in text
    images = {Path(x).suffix for x in re.findall(r'<img[^>]* src="(_images/[^"]+)"', text)}
    assert images == {".gif", ".png"}
    assert "500.0" in text
