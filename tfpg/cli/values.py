"""Words of the command line as values of options, and back."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.core.options import Check
from tfpg.schedules import linear


class Kind(NamedTuple):
    """The words that an option accepts.

    Attributes:
        types: The types of a word.
        several: Whether it takes several words.
        schedule: Whether it takes a schedule.
    """

    types: set[Any]
    several: bool
    schedule: bool


def kind_of(annotation: Any) -> Kind:
    """Return the words that an option with this annotation accepts.

    Example:
        >>> kind_of(int | None) == Kind({int, type(None)}, several=False, schedule=False)
        True
    """
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if union else (annotation,)
    sequences = [part for part in parts if typing.get_origin(part) in (tuple, Sequence)]
    found = {part for part in parts if isinstance(part, type) and part not in sequences}
    found |= {typing.get_args(part)[0] for part in sequences}
    if Any in parts:
        found |= {int, float, str, type(None)}
    schedule = any(typing.get_origin(part) is Callable for part in parts)
    return Kind(found, bool(sequences) or schedule, schedule)


def parse_words(words: Sequence[str], kind: Kind) -> Any:
    """Return the value of an option from the words of the command line.

    Raises:
        ValueError: The words are of other types.

    Example:
        >>> parse_words(["64", "64"], kind_of(Sequence[int]))
        (64, 64)
        >>> parse_words(["none"], kind_of(float | None)) is None
        True
    """
    values = tuple(_parse_word(word, kind.types) for word in words)
    if not kind.several:
        return values[0]
    if kind.schedule:
        if len(values) == 1:
            return values[0]
        if len(values) != 3 or str in map(type, values) or not values[2] > 0:
            raise ValueError("one number, or START END STEPS with STEPS above 0")
        return linear(*values)
    return values


def _parse_word(word: str, kinds: set[Any]) -> Any:
    if kinds & {int, float}:
        with suppress(ValueError):
            return int(word)
        with suppress(ValueError):
            number = float(word)
            if float in kinds:
                return number
            if number.is_integer():  # 1e6, for example
                return int(number)
    constants = {"none": None, "on": True, "true": True, "off": False, "false": False}
    if word.lower() in constants and type(constants[word.lower()]) in kinds:
        return constants[word.lower()]
    if Path in kinds:
        return Path(word)
    return word  # of another type, which the option's check refuses


def as_text(value: Any) -> str:
    """Return the value of an option as the command line takes it.

    Example:
        >>> as_text(linear(1.0, 0.1, 500)), as_text((64, 64)), as_text(None)
        ('1.0 0.1 500', '64 64', 'none')
    """
    if isinstance(value, (list, tuple)):
        return " ".join(map(as_text, value))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    if match := re.fullmatch(r"linear\((.*)\)", text):
        return match[1].replace(",", "")
    return text


def as_typed(text: str) -> str:
    """Return a text with Python's constants as the command line takes them.

    Example:
        >>> as_typed("a number or None"), as_typed("True, False, or 'auto'")
        ("a number or 'none'", "'on', 'off', or 'auto'")
    """
    constants = {str(value): repr(as_text(value)) for value in (None, True, False)}
    return re.sub(r"\b(None|True|False)\b", lambda match: constants[match[0]], text)


def each(check: Check) -> Check:
    """A check of each item of a sequence.

    Example:
        >>> each(int)(["64", "64"])
        (64, 64)
    """

    def checked_one(value: Any) -> Any:
        try:
            return check(value)
        except ValueError as error:
            raise ValueError(str(error), value) from None

    def checked(values: Any) -> Any:
        return tuple(map(checked_one, values))

    checked.choices = getattr(check, "choices", ())  # type: ignore[attr-defined]
    return checked


def dashed(name: str) -> str:
    """Return an option as it is typed.

    Example:
        >>> dashed("num_envs")
        '--num-envs'
    """
    return f"--{name.replace('_', '-')}"
