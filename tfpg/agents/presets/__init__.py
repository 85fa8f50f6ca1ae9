"""Settings that were measured: networks, optimizers and agents by algorithm and environment.

The only tuned values in the library. Every entry of `PRESETS` says the score it was measured at:
the interquartile mean over ten seeds, with a 95 % bootstrap interval, of the greedy mean return of
100 fresh episodes of the model kept best by training return within the budget.
``python benchmarks/scores.py`` makes the table.
"""

from __future__ import annotations

from typing import Any

from tfpg.agents.presets.measured import ATARI, DEFAULTS, PRESETS, Preset, Score
from tfpg.envs import same_env
from tfpg.envs.atari import is_atari

__all__ = [
    "ATARI",
    "DEFAULTS",
    "PRESETS",
    "Preset",
    "Score",
    "find",
    "iterations_of",
    "make_agent",
    "with_budget",
]


def find(algorithm: str, env_id: str) -> Preset:
    """The preset of an algorithm and an environment, or the algorithm's default.

    Raises:
        ValueError: The algorithm is unknown.

    Example:
        >>> find("ppo", "CartPole-v1").env_steps
        100000
    """
    if algorithm not in DEFAULTS:
        raise ValueError(f"algorithm must be one of {list(DEFAULTS)}, and it is {algorithm!r}.")
    for (name, env), preset in PRESETS.items():
        if name == algorithm and same_env(env, env_id):
            return preset
    return ATARI.get(algorithm, DEFAULTS[algorithm]) if is_atari(env_id) else DEFAULTS[algorithm]


def with_budget(preset: Preset, env_steps: int) -> Preset:
    """The preset for another number of environment steps, of which at most half warm up.

    The iterations of a DQN are as long as before, or so much shorter that they fill the budget.

    Example:
        >>> with_budget(find("dqn", "ALE/Pong-v5"), 30_000).options["steps_per_iteration"]
        3744
    """
    options = dict(preset.options)
    if "steps_per_iteration" in options:
        period, num_envs = options["learn_period"], options.get("num_envs", 8)
        warm_up = max(min(env_steps // 2, env_steps - period), num_envs)
        options["learning_starts"] = min(options["learning_starts"], warm_up // num_envs * num_envs)
        rounds = max((env_steps - options["learning_starts"]) // period, 1)
        iterations = -(-rounds // max(options["steps_per_iteration"] // period, 1))
        options["steps_per_iteration"] = rounds // iterations * period
    return preset._replace(env_steps=env_steps, episodes=None, options=options)


def iterations_of(preset: Preset) -> int:
    """How many iterations the budget holds at most."""
    options = preset.options
    if preset.episodes is not None:
        return max(1, preset.episodes // options["episodes_per_update"])
    if "episodes_per_update" in options:
        return 100_000  # env_steps ends it
    if "steps_per_iteration" in options:
        left = preset.env_steps - options["learning_starts"]
        return max(1, left // options["steps_per_iteration"])
    return max(1, preset.env_steps // (options.get("num_envs", 8) * options["num_steps"]))


def make_agent(
    algorithm: str,
    env: Any,
    preset: Preset,
    seed: int | None = None,
    *,
    iterations: int | None = None,
    model: Any = None,
    learning_rate: float | None = None,
    **options: Any,
) -> Any:
    """An agent with fresh networks, as a preset says.

    Args:
        algorithm: ``"reinforce"``, ``"a2c"``, ``"ppo"`` or ``"dqn"``.
        env: What it will play in; see `tfpg.networks.mlp`.
        preset: Its settings.
        seed: Of the networks' weights.
        iterations: Over which a learning rate falls. None: the preset's.
        model: A Keras model to go on with, instead of a fresh one. It keeps its optimizer; but one
            whose learning rate follows a schedule has come to its end, and gets a fresh optimizer.
        learning_rate: Of a given model that is compiled already. None: its own.
        **options: Of the agent, over the preset's.

    Returns:
        The agent.

    Example:
        >>> agent = make_agent("ppo", "CartPole-v1", find("ppo", "CartPole-v1"), seed=0)
        >>> type(agent).__name__, agent.num_envs
        ('PPO', 8)
    """
    import tfpg

    agents = {"reinforce": tfpg.Reinforce, "a2c": tfpg.A2C, "ppo": tfpg.PPO, "dqn": tfpg.DQN}
    options = {**preset.options, **options}
    iterations = iterations or iterations_of(preset)
    if model is None:
        valued = algorithm in ("a2c", "ppo") or options.get("baseline") == "value"
        two = valued and preset.critic is None
        network = preset.architecture or ("actor_critic" if two else "mlp")
        model = getattr(tfpg.networks, network)(env, seed=seed, **preset.network)
    critic_settings = preset.critic
    if options.get("baseline") == "mean" or _has_value(model):
        # The preset's critic is for a policy that has no value and wants one.
        critic_settings = None
        options.pop("value_updates", None)
    if options.get("baseline") == "mean":
        options.pop("gae_lambda", None)
    elif algorithm == "reinforce" and _has_value(model) and preset.critic is not None:
        options["baseline"] = "value"
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not hasattr(optimizer._learning_rate, "assign"):
        model.compile(optimizer=_optimizer(preset, preset.learning_rate, iterations))
    elif learning_rate:
        optimizer.learning_rate = learning_rate
    if critic_settings is not None:
        critic = tfpg.networks.critic(env, seed=seed, **critic_settings)
        rate = preset.critic_learning_rate or preset.learning_rate
        critic.compile(optimizer=_optimizer(preset._replace(anneal=False), rate, iterations))
        options["value_model"] = critic
    return agents[algorithm](model, **options)


def _has_value(model: Any) -> bool:
    return len(getattr(model, "outputs", None) or []) == 2


def _optimizer(preset: Preset, rate: Any, iterations: int) -> Any:
    from tfpg.core.backend import keras

    if preset.anneal:
        options = preset.options
        updates = options.get("epochs", 1) * options.get("minibatches", 1)
        if "steps_per_iteration" in options:
            rounds = options["steps_per_iteration"] // options["learn_period"]
            updates = rounds * options["updates_per_learn"]
        steps = iterations * updates
        rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)
    return keras.optimizers.Adam(rate, **preset.adam)
