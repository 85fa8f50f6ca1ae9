"""The configuration of the documentation site. To build it: see CONTRIBUTING.md."""

import re
import sys
from pathlib import Path

import click
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[1]))

import tfpg
from tfpg.cli.main import tfpg_command

project, author, copyright = "tfpg", "The tfpg contributors", "The tfpg contributors"
version = release = tfpg.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # the notebook is committed with its results
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
smartquotes_action = "D"  # quotes stay as they are typed in Python

default_role = "py:obj"
nitpicky = True  # every reference to tfpg must be right
nitpick_ignore_regex = [("py:.*", r"(?!tfpg\.).*")]
napoleon_custom_sections = ["Source"]
napoleon_use_ivar = True
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"tfpg {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_math_renderer = "mathml"


class MarkdownHelp(click.HelpFormatter):
    """The help of a command as Markdown, instead of text for a terminal."""

    def write_usage(self, prog, args="", prefix=None):
        self.write(f"\n## {prog}\n\n```text\n{prog} {args}\n```\n\n")

    def write_heading(self, heading):
        self.write(f"**{heading}**\n\n")

    def write_text(self, text):
        options = re.sub(r"(?<![\w-])--?[a-z][a-z-]*", r"`\g<0>`", text)
        self.write(options.replace("*", r"\*") + "\n\n")

    def write_dl(self, rows, **_):
        for name, text in rows:
            self.write(f"`{name}`\n: ")
            self.write_text(text)


class CommandLine(SphinxDirective):
    """All commands of ``tfpg``, with what their ``--help`` says."""

    def run(self):
        help, settings = MarkdownHelp(), tfpg_command.context_settings
        self.write(help, tfpg_command, click.Context(tfpg_command, info_name="tfpg", **settings))
        return self.parse_text_to_nodes(help.getvalue(), allow_section_headings=True)

    def write(self, help, command, ctx):
        command.format_help(ctx, help)
        for name in command.list_commands(ctx) if isinstance(command, click.Group) else ():
            child = command.get_command(ctx, name)
            self.write(help, child, click.Context(child, ctx, info_name=name))


def write_math(writer, node):
    """Write math as MathML, which browsers draw without a script."""
    writer.body.append(tex2mathml(node.astext(), isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def link_pages(app, name, source):
    """Let links to the files above docs/ lead to the pages that include them."""
    files = r"\]\((?:\.\./)+((?:CHANGELOG|CONTRIBUTING|SECURITY)\.md)"
    source[0] = re.sub(files, r"](/\1", source[0])


def setup(app):
    app.connect("source-read", link_pages)
    app.add_directive("command-line", CommandLine)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
