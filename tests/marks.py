"""Marks for families of tests that trace much the same code."""

import pytest


def slow_but(fast, family):
    """Return the parameters of a family, all except the ``fast`` ones marked slow.

    A parameter is a value, or a tuple of values.
    """
    family = list(family)
    assert all(each in family for each in fast)
    return [
        each
        if each in fast
        else pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.slow)
        for each in family
    ]
