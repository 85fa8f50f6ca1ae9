"""Presets: settings of networks, optimizers and agents by algorithm and environment.

Every entry of `PRESETS` has its measured score: the interquartile mean over ten seeds, with a 95%
bootstrap interval, of the greedy mean return of 100 new episodes. It is the score of the model with
the best training return within the budget. ``python benchmarks/scores.py`` prints the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tfpg.agents.presets.measured import ATARI, DEFAULTS, PRESETS, Preset, Score
from tfpg.agents.registry import algorithm_class
from tfpg.core.backend import keras
from tfpg.core.options import check_names, options_of
from tfpg.envs import is_atari, same_env, spaces_of, split_env_id
from tfpg.schedules import IN_THE_END

__all__ = [
    "ATARI",
    "DEFAULTS",
    "LIKE_DUELING",
    "PARTS",
    "PRESETS",
    "Preset",
    "Score",
    "continued",
    "find",
    "iterations_of",
    "make",
    "with_budget",
    "with_parts",
]

# Settings of other networks with the layers of `tfpg.networks.dueling`.
LIKE_DUELING: dict[str, Any] = {"hidden": (128, 128), "activation": "relu"}
# Options that determine how many iterations and updates a budget holds.
_SIZES = (
    *("num_envs", "num_steps", "epochs", "minibatches", "episodes_per_update"),
    *("batch_size", "learn_period", "updates_per_learn", "learning_starts", "steps_per_iteration"),
)
#: the six improvements of DQN that Rainbow combines
PARTS = ("double", "prioritized", "n_step", "dueling", "distributional", "noisy")
_N_STEP, _ATOMS = 3, 51  # Rainbow's
_EITHER = {"tau", "target_update_period"}  # of which an agent takes only one
# The iterations of a run whose length is not known in advance: its environment steps end it.
_UNKNOWN = 100_000


def find(algorithm: str, env_id: str) -> Preset:
    """Return the preset of an algorithm in an environment, or the algorithm's default.

    Args:
        algorithm: A name or ``"module:Class"``; see `tfpg.agents.registry.algorithm_class`. A
            class of your own may have a ``default_preset``.
        env_id: Environment id. Its keyword arguments do not matter. ``functional/CartPole`` has the
            presets of ``CartPole-v1``, and ``envpool/Hopper-v5`` those of ``Hopper-v5``.

    Raises:
        ValueError: The algorithm is unknown.

    Example:
        >>> find("ppo", "CartPole-v1").env_steps
        100000
    """
    task = split_env_id(env_id)[0].removeprefix("functional/").removeprefix("envpool/")
    agent_class = algorithm_class(algorithm)
    own = getattr(agent_class, "default_preset", Preset(100_000, 1e-3))
    preset: Preset = DEFAULTS.get(algorithm, own)
    if is_atari(env_id):
        preset = ATARI.get(algorithm, preset)
    for (name, env), each in PRESETS.items():
        if name == algorithm and same_env(env, task):
            preset = each
    return _with_sizes(preset, agent_class)


def _with_sizes(preset: Preset, agent_class: type) -> Preset:
    """A preset with the class's defaults of the sizes that it leaves out."""
    sizes = {name: each.default for name, each in options_of(agent_class).items() if name in _SIZES}
    return preset._replace(options={**sizes, **preset.options})


def with_parts(parts: Collection[str], env_id: str) -> tuple[str, Preset]:
    """Return a preset of DQN or C51 with just these of the six improvements that Rainbow combines.

    All else is as in DQN's preset.

    Args:
        parts: Names from `PARTS`. For ``"distributional"`` in an environment for which C51 has no
            preset, pass ``v_min`` and ``v_max`` to `make`.
        env_id: See `find`.

    Returns:
        The name of the algorithm, and its preset.

    Raises:
        ValueError: There is no such part.

    Example:
        >>> algorithm, preset = with_parts(["noisy"], "CartPole-v1")
        >>> algorithm, preset.env_steps, preset.network["noisy"], preset.options["double"]
        ('dqn', 50000, True, False)
    """
    check_names(parts, PARTS, "part of Rainbow")
    preset = find("dqn", env_id)
    options, network = dict(preset.options), dict(preset.network)
    options |= {"double": "double" in parts, "prioritized": "prioritized" in parts}
    options["n_step"] = max(_N_STEP, options.get("n_step", 1)) if "n_step" in parts else 1
    if "noisy" in parts:
        network["noisy"], options["epsilon"] = True, 0.0
    architecture, dueling = preset.architecture, "dueling" in parts
    if architecture == "nature_cnn":
        network["dueling"] = dueling
    else:
        network = {**LIKE_DUELING, **network}
        architecture = "dueling" if dueling else None
    algorithm = "dqn"
    if "distributional" in parts:
        algorithm, network["atoms"] = "c51", _ATOMS
        measured = find("c51", env_id).options
        options |= {name: measured[name] for name in ("v_min", "v_max") if name in measured}
    return algorithm, preset._replace(options=options, network=network, architecture=architecture)


def continued_head(head: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """Return the options of a trained model's head with which an algorithm continues training it.

    Args:
        head: The options of the head.
        algorithm: See `find`.

    Example:
        >>> continued_head({"squash": True, "value_scale": 3.5}, "ppo")
        {'squash': True}
    """
    # Training has a schedule of epsilon, and finds the scale of the values itself.
    known = options_of(algorithm_class(algorithm)).keys() - {"epsilon"}
    return {name: x for name, x in head.items() if name in known}


def continued(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which a trained model is trained further.

    A Q-network has already explored: it continues with the last epsilon, and a DQN after one batch.

    Example:
        >>> from tfpg.schedules import linear
        >>> continued({"epsilon": linear(1, 0.1, 100), "learning_starts": 999, "batch_size": 64})
        {'epsilon': 0.1, 'learning_starts': 64, 'batch_size': 64}
    """
    options = dict(options)
    if "learning_starts" in options:
        options["learning_starts"] = options["batch_size"]
    if callable(options.get("epsilon")):
        options["epsilon"] = options["epsilon"](IN_THE_END)
    return options


def with_budget(preset: Preset, env_steps: int) -> Preset:
    """Return a preset for a different number of environment steps.

    At most half of them are the warm-up of an agent with a replay buffer. Its iterations are as
    long as before, or a little shorter, to fill the budget.

    Example:
        >>> with_budget(find("dqn", "ALE/Pong-v5"), 30_000).options["steps_per_iteration"]
        3744
    """
    options = dict(preset.options)
    if "steps_per_iteration" in options:
        period, num_envs = options["learn_period"], options["num_envs"]
        warm_up = max(min(env_steps // 2, env_steps - period), num_envs)
        options["learning_starts"] = min(options["learning_starts"], warm_up // num_envs * num_envs)
        rounds = max((env_steps - options["learning_starts"]) // period, 1)
        iterations = -(-rounds // max(options["steps_per_iteration"] // period, 1))
        options["steps_per_iteration"] = rounds // iterations * period
    return preset._replace(env_steps=env_steps, episodes=None, options=options)


def iterations_of(preset: Preset) -> int:
    """Return how many iterations the budget of a preset holds at most."""
    options = preset.options
    if preset.episodes is not None:
        return max(1, preset.episodes // options["episodes_per_update"])
    if "steps_per_iteration" in options:
        left = preset.env_steps - options["learning_starts"]
        return max(1, left // (_blocks(options) * options["learn_period"]))
    if "num_steps" in options:
        return max(1, preset.env_steps // (options["num_envs"] * options["num_steps"]))
    return _UNKNOWN


def _blocks(options: Mapping[str, Any]) -> int:
    """How many times an iteration with a replay buffer steps ``learn_period`` times and learns."""
    return max(1, round(options["steps_per_iteration"] / options["learn_period"]))


def make(
    algorithm: str,
    env: Any,
    seed: int | None = None,
    *,
    preset: Preset | None = None,
    iterations: int | None = None,
    model: Any = None,
    critic: Any = None,
    learning_rate: float | None = None,
    **options: Any,
) -> Any:
    """Return an agent with new networks, with the settings of a preset.

    Args:
        algorithm: A name or ``"module:Class"``; see `tfpg.agents.registry.algorithm_class`.
        env: The environment or its spaces; see `tfpg.networks.mlp`.
        seed: The seed of the networks' initial weights.
        preset: The settings. None: those of `find` for an environment id, or else the algorithm's
            default.
        iterations: Iterations over which the learning rate decays. None: the preset's.
        model: A Keras model to train instead of a new one. It keeps its optimizer, unless its
            learning rate is a schedule, which has decayed.
        critic: The same for the critic or value model, where the preset has one.
        learning_rate: The learning rate of the model, and of the critic if the preset has no other
            for it. None: that of a compiled ``model``, or else the preset's.
        **options: Options of the agent, which replace the preset's.

    Example:
        >>> agent = make("ppo", "CartPole-v1", seed=0)
        >>> type(agent).__name__, agent.epochs
        ('PPO', 20)
        >>> history = agent.fit("CartPole-v1", env_steps=1000, seed=0, verbose=0)
    """
    from tfpg.agents.optimization import has_schedule
    from tfpg.models import networks
    from tfpg.models.inspection import state_shapes
    from tfpg.models.policy import head_options_of

    agent_class = algorithm_class(algorithm)
    preset = preset or find(algorithm, env if isinstance(env, str) else "")
    preset = _with_sizes(preset, agent_class)  # one of your own may leave some out
    given = {name for name, x in options.items() if x is not None}
    replaced = _EITHER if given & _EITHER else set()
    options = {**{x: y for x, y in preset.options.items() if x not in replaced}, **options}
    if model is not None and "support" in head_options_of(model):
        options = {x: options[x] for x in options if x in given or x not in ("v_min", "v_max")}
    preset = preset._replace(options=options, learning_rate=learning_rate or preset.learning_rate)
    iterations = iterations or iterations_of(preset)
    if model is None:
        env = spaces_of(env)
        needs_value = agent_class.needs_value or options.get("baseline") == "value"
        two_outputs = needs_value and preset.critic is None
        policy = "cnn" if networks.has_images(env[0]) else "mlp"
        network = preset.architecture or ("actor_critic" if two_outputs else policy)
        model = getattr(networks, network)(env, seed=seed, **preset.network)
    has_value = len(getattr(model, "outputs", None) or []) - len(state_shapes(model)) == 2
    no_value = options.get("baseline", "value") != "value"
    unused = {"gae_lambda", "value_updates"} if no_value else {"value_updates"} if has_value else ()
    options = {name: x for name, x in options.items() if name in given or name not in unused}

    def compiled(model: Any, preset: Preset, rate: float) -> Any:
        optimizer = getattr(model, "optimizer", None)
        if optimizer is None or has_schedule(optimizer):
            model.compile(optimizer=_optimizer(preset, rate, iterations))
        elif learning_rate:
            optimizer.learning_rate = rate
        return model

    compiled(model, preset, preset.learning_rate)
    # Otherwise the policy has a value function, or needs none.
    if preset.critic is not None and not unused:
        if critic is None:
            twin = agent_class.second_model == "critic"
            new = networks.twin_critic if twin else networks.critic
            critic = new(env, seed=seed, **preset.critic)
        rate = preset.critic_learning_rate or preset.learning_rate
        critic = compiled(critic, preset._replace(anneal=False), rate)
        options[agent_class.second_model] = critic
    return agent_class(model, **options)


def _optimizer(preset: Preset, rate: Any, iterations: int) -> Any:
    if preset.anneal:
        options = preset.options
        updates = options.get("epochs", 1) * options.get("minibatches", 1)
        if "steps_per_iteration" in options:
            updates = _blocks(options) * options["updates_per_learn"]
        steps = iterations * updates
        rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)
    return keras.optimizers.Adam(rate, **preset.adam)
