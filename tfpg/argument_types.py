"""A parser of few words, and numbers in a range. Nothing here imports TensorFlow."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Answers a wrong usage in two lines."""

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
