"""Commands are declared like agents: a class whose fields are its arguments and options.

    class Evaluate(Command):
        '''Evaluate a saved model.'''

        model: Path = argument("A .keras file.")
        episodes: int = setting("Number of episodes.", count, default=100)

        def execute(self): ...

``tfpg evaluate MODEL --episodes 10`` makes an instance and calls `execute`. Click parses the words,
and a value that fails its check is a usage error.
"""

from __future__ import annotations

import abc
import dataclasses
import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tfpg.cli.reporting import standard_output_as_error
from tfpg.cli.values import Kind, as_text, as_typed, dashed, kind_of, parse_words
from tfpg.core.options import (
    Check,
    Option,
    WithOptions,
    check_names,
    option,
    options_of,
    type_of,
)

GENERAL = "General options"


def argument(help: str) -> Any:
    """Declare an argument of a command."""
    return option(help=help, kw_only=False)


def setting(help: str, check: Check | None = None, default: Any = None) -> Any:
    """Declare an option of a command.

    Args:
        help: One sentence.
        check: A check of `tfpg.core.options`. None as a value always passes.
        default: The default value.
    """

    def check_given(value: Any) -> Any:
        return value if value is None or check is None else check(value)

    check_given.choices = getattr(check, "choices", ())  # type: ignore[attr-defined]
    return option(default=default, check=check_given, help=help)


class Command(WithOptions, abc.ABC):
    """A command. Its docstring is the help text."""

    section = GENERAL
    debug: bool = setting("Show the traceback of an error.", default=False)

    def start(self) -> int | None:
        """Execute the command, and return its exit code. None: 0."""
        return self.execute()

    @abc.abstractmethod
    def execute(self) -> int | None:
        """Run the command, and return its exit code. None: 0."""


class EnvArguments(WithOptions):
    """Keyword arguments of the environment."""

    env_kwargs: tuple[str, ...] | None = setting(
        "Keyword arguments of the environment, such as size=8 slippery=false."
    )

    def kwargs(self) -> dict[str, Any]:
        """Return the arguments.

        Raises:
            ValueError: One is not KEY=VALUE.
        """
        from tfpg.envs import parse_value

        found = {}
        for word in self.env_kwargs or ():
            key, equals, value = word.partition("=")
            if not equals or not key.isidentifier():
                raise ValueError(f"--env-kwargs must be KEY=VALUE, got {word!r}.")
            found[key] = parse_value(value)
        return found

    def check_options(self) -> None:
        super().check_options()
        env = getattr(self, "env", None)
        if self.env_kwargs and env is not None:
            from tfpg.envs import join_env_id

            self.env = join_env_id(env, self.kwargs())


class WithJson(Command):
    """A command that can print JSON."""

    section = GENERAL
    json: bool = setting("Print one JSON object.", default=False)

    def start(self) -> int | None:
        if not self.json:
            return self.execute()
        with standard_output_as_error() as self._output:
            return self.execute()

    def print_json(self, value: Any) -> None:
        """Print a value as a line of JSON. Nothing else gets to the standard output."""
        print(json.dumps(value), file=self._output, flush=True)


class Setting(click.Option):
    """An option of a command, made from its declaration.

    Args:
        declared: The declaration.
        annotation: The type of its value.
        section: Heading in the help text.
        agent: Whether it is an option of an agent, whose flags presets may set.
    """

    def __init__(self, declared: Option, annotation: Any, section: str, agent: bool):
        self.declared, self.kind, self.section = declared, kind_of(annotation), section
        if not agent:  # None stands for an option that is left out
            self.kind.types.discard(type(None))
        name = dashed(declared.name)
        options: dict[str, Any] = {"type": str, "multiple": self.kind.several}
        self.is_switch = self.kind.types <= {bool, type(None)}
        if self.is_switch:
            options = {"is_flag": True}
            if agent or declared.default is not False:
                name += f"/--no-{name[2:]}"
        super().__init__([name], default=None, callback=self._checked, **options)

    def _checked(self, ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        assert self.name is not None
        if ctx.get_parameter_source(self.name) is not ParameterSource.COMMANDLINE:
            return None
        words = value if self.multiple else (value,)
        name = dashed(self.declared.name)
        try:
            value = value if self.is_switch else parse_words(words, self.kind)
            return self.declared._replace(name=name).checked(value)
        except ValueError as error:
            text = str(error)
            text = text if text.startswith(name) else f"{name} must be {text}."
            expected, *got = text.partition(", got ")
            raise click.UsageError("".join([as_typed(expected), *got]), ctx) from None

    def help_row(self, defaults: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str]:
        """Return the option and its help text, for a table.

        Args:
            defaults: Defaults that differ from those of the declarations.
            names: Names of all options, which the text may mention.
        """
        text = as_typed(self.declared.help.replace("`", ""))
        for name in names:
            if "_" in name:
                text = re.sub(rf"(?<![\w.]){name}(?!\w)", dashed(name), text)
        if self.kind.schedule:
            text += " START END STEPS: a linear schedule."
        default = defaults.get(self.declared.name, self.declared.default)
        single_switch = self.is_switch and not self.secondary_opts
        if not single_switch and (default is not None or "'none'" in text):
            text += f" [default: {as_text(default)}]"
        spelling = " / ".join([*self.opts, *self.secondary_opts])
        return f"{spelling} {self._placeholder()}".rstrip(), text

    def _placeholder(self) -> str:
        choices = getattr(self.declared.check, "choices", ())
        if self.is_switch:
            return ""
        if self.kind.schedule:
            return "X|START END STEPS"
        dots = "..." if self.kind.several else ""
        if choices:
            return f"[{'|'.join(as_text(x) for x in choices)}]{dots}"
        names = {int: "N", float: "X", Path: "PATH", str: "NAME"}
        return next(name for kind, name in names.items() if kind in self.kind.types) + dots


class ClickCommand(click.Command):
    """A command whose help text has sections, and whose options may take several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(self._one_word_each(args)))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            if isinstance(error, click.NoSuchOption) and error.possibilities:
                del error.possibilities[1:]  # the nearest comes first
            raise

    def _one_word_each(self, args: Sequence[str]) -> Iterator[str]:
        """Repeat an option before each of its words, which is how Click takes several."""
        several = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        current = ""
        for arg, following in zip(args, [*args, "--"][1:], strict=True):
            if arg in several:
                if is_option(following):
                    raise click.BadOptionUsage(arg, f"Option {arg!r} requires an argument.")
                current = arg
                continue
            if is_option(arg):
                current = ""
            elif current:
                yield current
            yield arg

    def defaults(self, ctx: click.Context) -> Mapping[str, Any]:
        """Return the defaults that differ from those of the declarations."""
        return {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        defaults, names = self.defaults(ctx), [param.name or "" for param in self.params]
        for param in self.params:
            if isinstance(param, Setting):
                row = param.help_row(defaults, names)
                sections.setdefault(param.section, []).append(row)
        sections.setdefault(GENERAL, []).append(("-h, --help", "Show this message and exit."))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows, col_max=24)


class CommandGroup(click.Group):
    """A group of commands that suggests the nearest name for an unknown one."""

    what = "command"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if ":" not in name and not is_option(name):
            try:
                check_names([name], self.list_commands(ctx), self.what)
            except ValueError as error:
                raise click.UsageError(str(error), ctx) from None
        return super().resolve_command(ctx, args)


def is_option(word: str) -> bool:
    """Return whether a word of the command line is an option, not an argument or a number."""
    return re.match(r"-[^\d.]", word) is not None


def click_command(name: str, command: type[Command]) -> click.Command:
    """Return the Click command that parses the fields of a `Command` and returns an instance."""
    return ClickCommand(
        name,
        params=parameters(command),
        callback=lambda **_: make(command, given()),
        help=help_of(command),
    )


def given() -> dict[str, Any]:
    """Return the arguments and options that the command line sets."""
    ctx = click.get_current_context()
    source = ctx.get_parameter_source
    return {k: v for k, v in ctx.params.items() if source(k) is ParameterSource.COMMANDLINE}


def make(command: type[Command], values: Mapping[str, Any]) -> Command:
    """Return a command with the given values.

    Raises:
        click.UsageError: They cannot be combined.
    """
    try:
        return command(**values)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None


def help_of(command: type) -> str:
    """Return the help text of a class: its docstring up to the first section."""
    text = inspect.cleandoc(command.__doc__ or "").replace("`", "")
    return re.split(r"\n\n(?=[A-Z]\w+:\n)", text)[0]


def parameters(declaring: type[WithOptions], skip: Collection[str] = ()) -> list[click.Parameter]:
    """Return the arguments of a class, and its options, its own before inherited ones.

    Args:
        declaring: A `Command`, or an agent.
        skip: Names of options to leave out.
    """
    classes = {cls.__name__: cls for cls in declaring.__mro__}
    order = list(classes)
    agent = not issubclass(declaring, Command)
    arguments: list[click.Parameter] = []
    settings: list[tuple[int, Setting]] = []
    for each in options_of(declaring).values():
        if not each.in_config or each.name in skip:
            continue
        annotation = type_of(declaring, each.name)
        if each.default is dataclasses.MISSING:
            arguments.append(_argument(each, kind_of(annotation)))
        else:
            section = _section(classes[each.group], declaring)
            setting = Setting(each, annotation, section, agent)
            settings.append((order.index(each.group), setting))
    return [*arguments, *(x for _, x in sorted(settings, key=lambda pair: pair[0]))]


def _argument(declared: Option, kind: Kind) -> click.Argument:
    return click.Argument(
        [declared.name],
        nargs=-1 if kind.several else 1,
        type=click.Path(path_type=Path) if Path in kind.types else str,
        required=True,
        help=declared.help,
    )


def _section(cls: type, declaring: type) -> str:
    """The heading of the options of a class, such as "Policy-gradient options"."""
    if "section" in vars(cls):
        return vars(cls)["section"]
    if cls is declaring and issubclass(cls, Command):
        return "Options"
    words = re.findall(r"[A-Z][a-z]+|[A-Z0-9]+(?![a-z])", cls.__name__)
    first, *rest = words
    return "-".join([first, *map(str.lower, rest)]) + " options"
