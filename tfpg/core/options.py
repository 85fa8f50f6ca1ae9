"""Options of an agent, each declared once: name, type, default, check and documentation.

A class declares its options as annotated fields::

    class PPO(ActorCritic):
        clip_ratio: float = option(default=0.2, check=positive, help="...")

Everything else derives from them: the constructor and its docstring, the command line, a run's
``config.json``, the settings of presets, and the comparison when a run resumes.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tfpg.core.messages import alternatives

# Returns the value of an option in its final form, or raises a ValueError whose text completes
# the sentence "NAME must be". A second argument of the error is the part of the value at fault.
Check = Callable[[Any], Any]


class Option(NamedTuple):
    """The declaration of one option of a class."""

    name: str  #: the field's name
    type: Any  #: its annotation
    default: Any  #: ``dataclasses.MISSING`` if the option is required
    check: Check | None  #: brings a value into its final form
    help: str  #: one or two sentences
    group: str  #: the name of the class that declares it
    in_config: bool  #: whether ``config.json`` has it

    def checked(self, value: Any) -> Any:
        """Return the value in its final form.

        Raises:
            ValueError: The value is out of its range.
        """
        return value if self.check is None else checked(self.name, value, self.check)


def checked(name: str, value: Any, check: Check) -> Any:
    """Return a named value in its final form.

    Raises:
        ValueError: The value is out of its range.

    Example:
        >>> checked("episodes", 3, count)
        3
    """
    try:
        return check(value)
    except ValueError as error:
        expected, got = error.args if len(error.args) == 2 else (error, value)
        raise ValueError(f"{name} must be {expected}, got {got!r}.") from None


def option(
    *,
    default: Any = dataclasses.MISSING,
    check: Check | None = None,
    help: str,
    in_config: bool = True,
    kw_only: bool = True,
) -> Any:
    """Declare an option of an agent.

    Args:
        default: The default value. Without one the option is required.
        check: Brings a value into its final form or raises a ``ValueError``, such as `fraction`.
            None: every value is accepted.
        help: One or two sentences for the docstring, ``--help`` and the documentation.
        in_config: Whether ``config.json``, presets and the command line have it. False for models.
        kw_only: Whether the constructor takes it by name only.

    Returns:
        A dataclass field.

    Example:
        >>> class Agent(WithOptions):
        ...     gamma: float = option(default=0.99, check=fraction, help="Discount factor.")
        >>> Agent(gamma=1).gamma
        1.0
        >>> Agent(gamma=2)
        Traceback (most recent call last):
            ...
        ValueError: gamma must be a number from 0 to 1, got 2.
    """
    metadata = {"check": check, "help": help, "in_config": in_config}
    return dataclasses.field(default=default, metadata=metadata, kw_only=kw_only)


@typing.dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(option,))
class WithOptions:
    """A class whose annotated fields are its options.

    A subclass gets a constructor that takes them, in which all of them are checked, and an
    ``Args`` section in its docstring. Anything else that a constructor does goes into
    ``__post_init__``, which calls ``super().__post_init__()`` first.

    Raises:
        TypeError: By the constructor, for an unknown option. The message suggests the nearest.
        ValueError: By the constructor, for a value out of its range.
    """

    # For names of options in other libraries, the name here or what to do instead.
    hints: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(eq=False, repr=False)(cls)
        cls.__doc__ = _documented(cls)
        # Without it, help() and editors would show that of __new__.
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **options: Any) -> typing.Self:
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        check_names(options, known, f"{cls.__name__} option", cls.hints, TypeError)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self.check_options()

    def __repr__(self) -> str:
        changed = (
            f"{each.name}={getattr(self, each.name)!r}"
            for each in options_of(type(self)).values()
            if each.in_config and getattr(self, each.name) != each.default
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def check_options(self) -> None:
        """Bring all options into their final form. Called again when training starts.

        Raises:
            ValueError: An option is out of its range.
        """
        for each in options_of(type(self)).values():
            setattr(self, each.name, each.checked(getattr(self, each.name)))


def options_of(cls: type) -> dict[str, Option]:
    """The options of a class by name, those of base classes first.

    Example:
        >>> class Agent(WithOptions):
        ...     gamma: float = option(default=0.99, check=fraction, help="Discount factor.")
        >>> options_of(Agent)["gamma"].default
        0.99
    """
    if "_options" not in vars(cls):
        cls._options = {  # type: ignore[attr-defined]
            field.name: Option(
                field.name,
                field.type,
                field.default,
                field.metadata["check"],
                field.metadata["help"],
                next(c.__name__ for c in reversed(cls.__mro__) if field.name in _annotations(c)),
                field.metadata["in_config"],
            )
            for field in dataclasses.fields(cls)
        }
    return vars(cls)["_options"]


def type_of(cls: type, name: str) -> Any:
    """The type of an option, its annotation evaluated.

    Example:
        >>> class Agent(WithOptions):
        ...     seed: "int | None" = option(default=None, help="The seed.")
        >>> type_of(Agent, "seed")
        int | None
    """
    declared = next(c for c in cls.__mro__ if name in _annotations(c))
    holder = SimpleNamespace(__annotations__={name: _annotations(declared)[name]})
    return typing.get_type_hints(holder, vars(sys.modules[declared.__module__]))[name]


def as_json(value: Any) -> Any:
    """An option's value as ``config.json`` holds it: a schedule is its text.

    Example:
        >>> from tfpg.schedules import linear
        >>> as_json(linear(1.0, 0.1, 100)), as_json((1, 2)), as_json("auto")
        ('linear(1.0, 0.1, 100)', [1, 2], 'auto')
    """
    if callable(value):
        try:
            return float(repr(value))  # a constant schedule is its number
        except ValueError:
            return repr(value)
    return list(value) if isinstance(value, tuple) else value


def check_names(
    given: Iterable[str],
    known: Iterable[str],
    what: str,
    hints: Mapping[str, str] | None = None,
    error: type[Exception] = ValueError,
) -> None:
    """Raise for an unknown name, and suggest the nearest known one.

    Args:
        given: The names to check.
        known: The names that exist.
        what: What they are names of, for the message.
        hints: For names that are common elsewhere, the known name or what to do instead.
        error: The exception to raise.

    Raises:
        ValueError: A name is unknown; or ``error``.

    Example:
        >>> check_names(["learing_rate"], ["gamma", "learning_rate"], "option")
        Traceback (most recent call last):
            ...
        ValueError: Unknown option 'learing_rate'. Did you mean 'learning_rate'?
    """
    known = list(known)
    for name in given:
        if name not in known:
            # People rarely mistype the first letter: "sac" does not mean "a2c".
            alike = [x for x in known if x[:1] == name[:1]]
            near = difflib.get_close_matches(name, alike, 1, 0.65)
            near = near or difflib.get_close_matches(name, known, 1, 0.8)
            hint = f"Did you mean {near[0]!r}?" if near else f"Available: {', '.join(known)}."
            here = (hints or {}).get(name, "")
            if here in known or " " in here:
                hint = f"In tfpg, it is called {here!r}." if here in known else here
            raise error(f"Unknown {what} {name[:80]!r}. {hint}")


def _annotations(cls: type) -> dict[str, Any]:
    return vars(cls).get("__annotations__", {})


def _documented(cls: type) -> str:
    """The class's docstring with an ``Args`` section made of its options."""
    text = inspect.cleandoc(cls.__doc__ or "")
    lines = []
    for each in options_of(cls).values():
        default = "" if each.default is dataclasses.MISSING else f" Default: {each.default!r}."
        entry = f"{each.name}: {each.help}{default}"
        lines += textwrap.wrap(entry, 92, initial_indent="    ", subsequent_indent=" " * 8)
    args = "\n".join(["Args:", *lines])
    summary, *sections = re.split(r"\n\n(?=[A-Z]\w+:\n)", text)
    return "\n\n".join([summary, args, *sections])


def fraction(value: Any) -> float:
    """A number from 0 to 1.

    Example:
        >>> fraction(1)
        1.0
    """
    return _number(value, "a number from 0 to 1", lambda x: 0.0 <= x <= 1.0)


def positive_fraction(value: Any) -> float:
    """A number above 0 and up to 1.

    Example:
        >>> positive_fraction(0.01)
        0.01
    """
    return _number(value, "a number above 0 and up to 1", lambda x: 0.0 < x <= 1.0)


def finite(value: Any) -> float:
    """A finite number.

    Example:
        >>> finite(-1)
        -1.0
    """
    return _number(value, "a number", math.isfinite)


def positive_or_auto(value: Any) -> float | str:
    """A number above 0, or ``"auto"``.

    Example:
        >>> positive_or_auto("auto"), positive_or_auto(1)
        ('auto', 1.0)
    """
    if isinstance(value, str) and value == "auto":
        return value
    try:
        return positive(value)
    except ValueError as error:
        raise ValueError(f"{error} or 'auto'") from None


def positive(value: Any) -> float:
    """A finite number above 0.

    Example:
        >>> positive(0.5)
        0.5
    """
    return _number(value, "a number above 0", lambda x: 0.0 < x < math.inf)


def nonnegative(value: Any) -> float:
    """A finite number of at least 0.

    Example:
        >>> nonnegative(0)
        0.0
    """
    return _number(value, "a number of at least 0", lambda x: 0.0 <= x < math.inf)


def count(value: Any) -> int:
    """An integer of at least 1.

    Example:
        >>> count(8)
        8
    """
    return _integer(value, 1)


def whole(value: Any) -> int:
    """An integer of at least 0.

    Example:
        >>> whole(0)
        0
    """
    return _integer(value, 0)


def flag(value: Any) -> bool:
    """True or False.

    Example:
        >>> flag(1)
        True
    """
    if value not in (True, False):
        raise ValueError("True or False")
    return bool(value)


def one_of(*choices: Any) -> Check:
    """A check that accepts the given values.

    Example:
        >>> one_of("fused", "accumulated")("fused")
        'fused'
    """

    def check(value: Any) -> Any:
        if not any(value is choice or value == choice for choice in choices):
            raise ValueError(alternatives(map(repr, choices)))
        return value

    check.choices = choices  # type: ignore[attr-defined]
    return check


def optional(check: Check, meaning: str = "None") -> Check:
    """A check that also accepts None.

    Example:
        >>> optional(count)(None) is None
        True
    """

    def either(value: Any) -> Any:
        try:
            return None if value is None else check(value)
        except ValueError as error:
            raise ValueError(f"{error.args[0]} or {meaning}", *error.args[1:]) from None

    either.choices = getattr(check, "choices", ())  # type: ignore[attr-defined]
    return either


def _number(value: Any, text: str, test: Callable[[float], bool]) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not test(number):
        raise ValueError(text)
    return number


def _integer(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"an integer of at least {least}")
    return int(value)
