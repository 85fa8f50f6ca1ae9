"""A parser of few words, and numbers in a range. Nothing here imports TensorFlow."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Answers a wrong usage in two lines."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._unknown(found, unknown)
        return found

    def _unknown(self, found: argparse.Namespace, unknown: list[str]) -> NoReturn:
        """Names what is not known, and the options of the command that are spelt alike."""
        parser: argparse.ArgumentParser = self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parser = action.choices[getattr(found, action.dest)]
        known = [option for action in parser._actions for option in action.option_strings]
        first = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(first, known, 1)
        meant = f", did you mean {near[0]}?" if near else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")


def number(kind: Callable[[str], Any], test: Callable[[Any], bool], what: str) -> Callable:
    """A type of arguments: what ``kind`` makes of the text, if it passes the test.

    Example:
        >>> number(int, lambda n: n >= 1, "an integer of at least 1")("7")
        7
    """

    def parse(text: str) -> Any:
        try:
            value = kind(text)
            if test(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {what}, and got {text!r}")

    return parse


COUNT = number(int, lambda n: n >= 1, "an integer of at least 1")
SEED = number(int, lambda n: n >= 0, "an integer of at least 0")
FROM_ZERO = SEED
FRACTION = number(float, lambda x: 0 <= x <= 1, "a number in [0, 1]")
POSITIVE = number(float, lambda x: 0 < x < float("inf"), "a number above 0")
COEF = number(float, lambda x: 0 <= x < float("inf"), "a number of at least 0")
FINITE = number(float, lambda x: abs(x) < float("inf"), "a number")
EITHER = argparse.BooleanOptionalAction
