"""Settings that were measured: networks, optimizers and agents by algorithm and environment.

The only tuned values in the library. Every entry of `PRESETS` says the score it was measured at:
the interquartile mean over ten seeds, with a 95 % bootstrap interval, of the greedy mean return of
100 fresh episodes of the model kept best by training return within the budget.
``python benchmarks/scores.py`` makes the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tfpg.envs import same_env
from tfpg.schedules import linear

_ADAM = {"epsilon": 1e-5, "global_clipnorm": 0.5}
_Q_ADAM = {"global_clipnorm": 10.0}


class Score(NamedTuple):
    """What a preset was measured at."""

    mean: float  # interquartile mean
    low: float
    high: float


class Preset(NamedTuple):
    """How to train an algorithm in an environment."""

    env_steps: int  # the budget
    learning_rate: float
    options: Mapping[str, Any]  # of the agent
    network: Mapping[str, Any] = {}  # of tfpg.networks
    architecture: str | None = None  # its function; None: mlp or actor_critic
    critic: Mapping[str, Any] | None = None  # of tfpg.networks.critic, for a model of its own
    critic_learning_rate: float | None = None
    adam: Mapping[str, Any] = {}
    anneal: bool = False  # the learning rate falls to 0 over the budget, in a line
    episodes: int | None = None  # a budget of episodes instead, for REINFORCE
    score: Score | None = None


PRESETS: dict[tuple[str, str], Preset] = {
    ("reinforce", "CartPole-v1"): Preset(
        env_steps=200_000,
        learning_rate=0.01,
        network={"hidden": (64, 64)},
        options={"episodes_per_update": 16},
        score=Score(500.0, 500.0, 500.0),
    ),
    ("reinforce", "Acrobot-v1"): Preset(
        env_steps=1_000_000,
        learning_rate=0.005,
        network={"hidden": (64, 64)},
        critic={"hidden": (64, 64)},
        critic_learning_rate=0.005,
        options={
            "episodes_per_update": 32,
            "entropy_coef": 0.01,
            "gae_lambda": 0.97,
            "value_updates": 20,
        },
        score=Score(-80.5, -83.7, -77.8),
    ),
    ("reinforce", "LunarLander-v3"): Preset(
        env_steps=3_200_000,
        episodes=3200,
        learning_rate=0.005,
        network={"hidden": (64, 64)},
        critic={"hidden": (64, 64)},
        critic_learning_rate=0.005,
        options={
            "episodes_per_update": 16,
            "gae_lambda": 0.97,
            "value_updates": 40,
            "gamma": 0.995,
            "max_steps": 1000,
        },
        score=Score(252.6, 226.3, 258.7),
    ),
    ("a2c", "CartPole-v1"): Preset(
        env_steps=500_000,
        learning_rate=3e-3,
        adam=_ADAM,
        anneal=True,
        options={"num_envs": 8, "num_steps": 16, "gae_lambda": 0.95, "standardize": "batch"},
        score=Score(500.0, 492.0, 500.0),
    ),
    ("ppo", "CartPole-v1"): Preset(
        env_steps=100_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        options={
            "num_envs": 8,
            "num_steps": 32,
            "epochs": 20,
            "minibatches": 1,
            "gamma": 0.98,
            "gae_lambda": 0.8,
        },
        score=Score(500.0, 500.0, 500.0),
    ),
    ("ppo", "Acrobot-v1"): Preset(
        env_steps=1_000_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        network={"normalize": True},
        options={
            "num_envs": 16,
            "num_steps": 256,
            "epochs": 10,
            "minibatches": 16,
            "gae_lambda": 0.94,
            "gamma": 0.99,
        },
        score=Score(-67.2, -69.0, -65.9),
    ),
    ("ppo", "LunarLander-v3"): Preset(
        env_steps=1_000_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        options={
            "num_envs": 16,
            "num_steps": 256,
            "epochs": 8,
            "minibatches": 16,
            "gamma": 0.999,
            "gae_lambda": 0.98,
            "entropy_coef": 0.01,
            "reward_scale": "auto",
        },
        score=Score(276.8, 274.0, 278.2),
    ),
    ("ppo", "Pendulum-v1"): Preset(
        env_steps=300_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        options={
            "num_envs": 16,
            "num_steps": 128,
            "epochs": 10,
            "minibatches": 16,
            "gamma": 0.95,
            "gae_lambda": 0.95,
            "reward_scale": "auto",
        },
        score=Score(-154.8, -159.8, -144.2),
    ),
    ("ppo", "MountainCarContinuous-v0"): Preset(
        env_steps=100_000,
        learning_rate=3e-4,
        adam=_ADAM,
        network={"normalize": True, "log_std": 1.0},
        options={
            "num_envs": 8,
            "num_steps": 256,
            "epochs": 10,
            "minibatches": 8,
            "gamma": 0.9999,
            "gae_lambda": 0.9,
            "reward_scale": "auto",
        },
        score=Score(92.8, 92.6, 92.9),
    ),
}

# Where no preset was measured.
DEFAULTS: dict[str, Preset] = {
    "reinforce": Preset(
        env_steps=1_000_000, learning_rate=0.01, options={"episodes_per_update": 32}
    ),
    "a2c": Preset(
        env_steps=1_000_000,
        learning_rate=1e-3,
        adam=_ADAM,
        network={"normalize": True},
        options={
            "num_envs": 8,
            "num_steps": 16,
            "gae_lambda": 0.95,
            "standardize": "batch",
            "reward_scale": "auto",
        },
    ),
    "ppo": Preset(
        env_steps=1_000_000,
        learning_rate=3e-4,
        adam=_ADAM,
        anneal=True,
        network={"normalize": True},
        options={"num_steps": 256, "epochs": 10, "minibatches": 32, "reward_scale": "auto"},
    ),
    "dqn": Preset(
        env_steps=200_000,
        learning_rate=5e-4,
        adam=_Q_ADAM,
        network={"hidden": (128, 128)},
        architecture="dueling",
        options={
            "batch_size": 64,
            "learn_period": 32,
            "updates_per_learn": 16,
            "target_update_period": 128,
            "epsilon": linear(1.0, 0.05, 20_000),
            "learning_starts": 1000,
            "steps_per_iteration": 1024,
        },
    ),
}


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
    return DEFAULTS[algorithm]


def iterations_of(preset: Preset) -> int:
    """How many iterations the budget holds at most."""
    options = preset.options
    if preset.episodes is not None:
        return max(1, preset.episodes // options["episodes_per_update"])
    if "episodes_per_update" in options:
        return 100_000  # env_steps ends it
    if "steps_per_iteration" in options:
        return max(1, preset.env_steps // options["steps_per_iteration"])
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
    if options.get("gradient") == "streaming":
        options.pop("value_updates", None)
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
    import keras

    if preset.anneal:
        options = preset.options
        updates = options.get("epochs", 1) * options.get("minibatches", 1)
        if "steps_per_iteration" in options:
            rounds = options["steps_per_iteration"] // options["learn_period"]
            updates = rounds * options["updates_per_learn"]
        steps = iterations * updates
        rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)
    return keras.optimizers.Adam(rate, **preset.adam)
