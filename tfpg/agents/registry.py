"""Algorithms by their names: those of tfpg, of installed packages, and of your own modules."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tfpg.core.backend import search_current_folder, start_tensorflow
from tfpg.core.options import check_names

if TYPE_CHECKING:
    from tfpg.agents.agent import Agent

ENTRY_POINTS = "tfpg.algorithms"

_CLASSES = {
    "reinforce": "tfpg.agents.reinforce:Reinforce",
    "a2c": "tfpg.agents.a2c:A2C",
    "ppo": "tfpg.agents.ppo:PPO",
    "dqn": "tfpg.agents.dqn:DQN",
    "c51": "tfpg.agents.c51:C51",
    "qrdqn": "tfpg.agents.qrdqn:QRDQN",
    "rainbow": "tfpg.agents.rainbow:Rainbow",
    "pqn": "tfpg.agents.pqn:PQN",
    "sac": "tfpg.agents.sac:SAC",
}


def algorithm_names() -> list[str]:
    """Return the names of all algorithms: tfpg's own, then those of installed packages.

    Example:
        >>> algorithm_names()[:4]
        ['reinforce', 'a2c', 'ppo', 'dqn']
    """
    return [*_CLASSES, *(sorted(_installed().keys() - _CLASSES.keys()))]


def algorithm_class(name: str) -> type[Agent]:
    """Return the agent class of an algorithm.

    Args:
        name: A name that `algorithm_names` lists, or ``"module:Class"`` for an agent class in a
            module of your own. Modules in the current folder are found too, as Gymnasium finds
            environments. A package registers its agents with entry points in the group
            ``tfpg.algorithms``.

    Raises:
        ValueError: There is no such algorithm, or it is not an agent class.
        ImportError: The module cannot be imported.

    Example:
        >>> algorithm_class("ppo").__name__
        'PPO'
    """
    from tfpg.agents.agent import Agent

    path = name if ":" in name else _CLASSES.get(name) or _installed().get(name)
    if path is None:
        check_names([name], algorithm_names(), "algorithm")
        raise AssertionError  # check_names has raised
    module, _, attribute = path.partition(":")
    if ":" in name:
        search_current_folder()
    if module not in sys.modules and name not in _CLASSES and find_spec(module):
        start_tensorflow()  # because the module imports TensorFlow
    found = getattr(importlib.import_module(module), attribute, None)
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise ValueError(f"{path!r} is not an agent: it must be a subclass of tfpg.Agent.")
    return found


def _installed() -> dict[str, str]:
    return {each.name: each.value for each in entry_points(group=ENTRY_POINTS)}
