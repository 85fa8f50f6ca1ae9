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
