"""Loading an agent from a run or a pack."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tfpg import schedules
from tfpg.agents import presets
from tfpg.agents.registry import algorithm_class
from tfpg.core.options import check_names, options_of
from tfpg.envs import spaces_of
from tfpg.models.saving import load_model
from tfpg.sharing.runs import find_model

if TYPE_CHECKING:
    from tfpg.agents.agent import Agent


def load_agent(
    path: str | os.PathLike,
    env: str | None = None,
    *,
    algorithm: str | None = None,
    **options: Any,
) -> Agent:
    """Load the trained agent of a run or a pack, ready for `evaluate`, `predict` and `fit`.

    The model is loaded as by `tfpg.load_model`, and the options come from the config. Training
    continues as with ``tfpg train --model``: a learning rate schedule starts again, a DQN explores
    with its last epsilon, and the temperature of a SAC is 1. The critic or value model is that of
    the run. Packs have none, so theirs is a new one.

    Args:
        path: A run folder, or a pack: a zip file or a folder.
        env: Environment id. None: that of the config.
        algorithm: An algorithm's name, or ``"module:Class"``. None: that of the config, which is
            not allowed to name a module.
        **options: Options of the agent, which replace those of the config.

    Raises:
        FileNotFoundError: There is no such run or pack.
        ValueError: A file is broken or unsafe, or there is no config.

    Example:
        >>> load_agent("nowhere.zip")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No run or model at 'nowhere.zip': pass a run folder, a pack, or a \
.keras file.
    """
    source = find_model(path, env)
    config, name = source.config, algorithm or source.config.get("algorithm")
    if name is None:
        raise ValueError(
            f"{str(path)!r} has no config: load its model with tfpg.PPO.load(path), for example."
        )
    if algorithm is None and ":" in name:
        raise ValueError(
            f"{str(path)!r} was trained by {name!r}, which is a class of a module. If you trust "
            f"the module, pass algorithm={name!r}."
        )
    agent_class = algorithm_class(name)
    known = [key for key, each in options_of(agent_class).items() if each.in_config]
    check_names(options, known, f"{agent_class.__name__} option", agent_class.hints, TypeError)
    head = presets.continued_head(source.head, name)
    trained = {key: schedules.from_text(value) for key, value in config["options"].items()}
    preset = presets.find(name, source.env)._replace(
        options=presets.continued(trained), critic=config.get("critic")
    )
    spaces, critic = spaces_of(source.env), source.critic_for(name)
    agent = presets.make(
        name,
        spaces,
        config["seed"],
        preset=preset,
        iterations=config["iterations"],
        model=load_model(source.model),
        critic=None if critic is None else load_model(critic),
        **{**head, **options},
    )
    agent.policy_for(spaces)
    return agent
