"""Presets fit their environments, have a score, and keep to their budget."""

import keras
import numpy as np
import pytest
from marks import slow_but

import tfpg
from tfpg.agents import presets

NAMES = list(presets.PRESETS)
Q_LEARNING = ("dqn", "c51", "qrdqn", "rainbow", "pqn")


@pytest.mark.parametrize(("algorithm", "env"), slow_but([("reinforce", "Acrobot-v1")], NAMES))
def test_every_preset_makes_an_agent_that_trains(algorithm, env):
    preset = presets.find(algorithm, env)
    options = {"max_steps": 20} if algorithm == "reinforce" else {}
    agent = presets.make(algorithm, env, seed=0, preset=preset, **options)
    assert type(agent).__name__.lower() == algorithm
    history = agent.fit(env, 1, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    "algorithm",
    [
        *(tfpg.Reinforce, tfpg.A2C, tfpg.PPO, tfpg.DQN, tfpg.C51, tfpg.QRDQN),
        *(tfpg.Rainbow, tfpg.PQN, tfpg.SAC),
    ],
)
def test_the_defaults_are_those_of_the_agent(algorithm):
    name, env = algorithm.__name__.lower(), "MountainCar-v0" if algorithm is tfpg.A2C else "Taxi-v4"
    env = "BipedalWalker-v3" if algorithm is tfpg.SAC else env
    agent = presets.make(name, env, seed=0)
    plain = algorithm(agent.model, **({"critic": agent.critic} if algorithm is tfpg.SAC else {}))
    assert agent.get_config() == plain.get_config()
    expected = algorithm.default_optimizer().get_config()
    found = agent.model.optimizer.get_config()
    assert {**found, "name": ""} == {**expected, "name": ""}


@pytest.mark.parametrize(("algorithm", "env"), NAMES)
def test_every_preset_has_a_score_within_its_interval(algorithm, env):
    score = presets.find(algorithm, env).score
    assert score.low <= score.mean <= score.high


@pytest.mark.parametrize(
    ("algorithm", "env"),
    slow_but(
        [("a2c", "Pendulum-v1")],
        [
            (algorithm, env)
            for algorithm in presets.DEFAULTS
            for env in ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Taxi-v4"]
            if algorithm not in (("sac",), Q_LEARNING)[env == "Pendulum-v1"]
        ],
    ),
)
def test_defaults_train_in_environments_without_a_preset(algorithm, env):
    preset = presets.DEFAULTS[algorithm]
    small = {"num_envs": 2, "jit_compile": False}
    if algorithm == "reinforce":
        small = {"episodes_per_update": 2}
    elif algorithm != "pqn" and algorithm in (*Q_LEARNING, "sac"):
        small = {"steps_per_iteration": 64, "learning_starts": 64, "capacity": 2000}
    agent = presets.make(algorithm, env, seed=0, preset=preset, **small)
    assert np.isfinite(agent.fit(env, 1, seed=0, verbose=0).history["loss"]).all()


@pytest.mark.slow
def test_ppo_plays_atari_games_with_shared_convolutions():
    preset = presets.find("ppo", "ALE/Breakout-v5")
    assert (preset.options["clip_ratio"], preset.options["num_steps"]) == (0.1, 128)
    agent = presets.make("ppo", "ALE/Breakout-v5", seed=0, num_steps=4)
    dense = [x.units for x in agent.model.layers if isinstance(x, keras.layers.Dense)]
    assert dense == [256, 4, 1]
    assert np.isfinite(agent.fit("ALE/Breakout-v5", 1, seed=0, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("parts", [[], *([part] for part in presets.PARTS), presets.PARTS])
@pytest.mark.parametrize("env", ["CartPole-v1", "LunarLander-v3", "Taxi-v4"])
def test_agents_with_other_parts_of_rainbow_have_the_settings_of_dqn_otherwise(env, parts):
    dqn, (_, preset) = presets.find("dqn", env), presets.with_parts(parts, env)
    assert preset.env_steps == dqn.env_steps
    assert preset[1] == dqn.learning_rate
    assert (preset.anneal, preset.adam) == (dqn.anneal, dqn.adam)
    changed = {"double", "prioritized", "n_step", "epsilon", "v_min", "v_max"}
    for name in preset.options.keys() - changed:
        assert preset.options[name] == dqn.options[name], name
    hidden = dqn.network.get("hidden", (128, 128))
    assert (preset.network["hidden"], preset.network["activation"]) == (hidden, "relu")


def test_with_parts_turns_on_these_parts_and_no_others():
    algorithm, plain = presets.with_parts([], "LunarLander-v3")
    off = {"double": False, "prioritized": False, "n_step": 1}
    assert (algorithm, plain.architecture) == ("dqn", None)
    assert off.items() <= plain.options.items()
    bounds = {"v_min": 0.0, "v_max": 100.0}
    algorithm, alone = presets.with_parts(["distributional"], "CartPole-v1")
    assert (algorithm, alone.network["atoms"]) == ("c51", 51)
    assert (off | bounds).items() <= alone.options.items()
    assert callable(plain.options["epsilon"])
    algorithm, rainbow = presets.with_parts(presets.PARTS, "ALE/Pong-v5")
    on = {"double": True, "prioritized": True, "n_step": 3, "epsilon": 0.0}
    assert (algorithm, rainbow.architecture) == ("c51", "nature_cnn")
    assert on.items() <= rainbow.options.items()
    assert rainbow.network == {"atoms": 51, "noisy": True, "dueling": True}
    assert presets.with_parts(["n_step"], "CartPole-v1")[1].options["n_step"] == 10
    with pytest.raises(ValueError, match="Unknown part of Rainbow 'duelling'"):
        presets.with_parts(["duelling"], "CartPole-v1")


@pytest.mark.slow
def test_an_annealed_learning_rate_decays_to_zero_over_the_budget():
    preset = presets.find("ppo", "CartPole-v1")
    agent = presets.make("ppo", "CartPole-v1", preset=preset, iterations=3)
    assert float(agent.model.optimizer.learning_rate) == pytest.approx(preset.learning_rate)
    agent.fit("CartPole-v1", 3, seed=0, verbose=0)
    assert float(agent.model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("steps", "period"), [(96, 64), (32, 2048), (1024, 64)])
def test_an_annealed_learning_rate_counts_the_updates_of_the_iterations(steps, period):
    preset = presets.find("dqn", "CartPole-v1")
    options = {**preset.options, "steps_per_iteration": steps, "learn_period": period}
    preset = preset._replace(options=options)
    agent = presets.make("dqn", "CartPole-v1", preset=preset)
    iterations, blocks = presets.iterations_of(preset), max(1, round(steps / period))
    played = options["learning_starts"] + iterations * blocks * period
    assert preset.env_steps - blocks * period < played <= preset.env_steps
    schedule = agent.model.optimizer._learning_rate
    assert schedule.decay_steps == iterations * blocks * options["updates_per_learn"]


def test_the_same_seed_makes_the_same_networks():
    preset = presets.find("reinforce", "LunarLander-v3")
    one, same, other = (
        presets.make("reinforce", "LunarLander-v3", seed, preset=preset) for seed in (0, 0, 1)
    )
    for a, b, c in zip(
        one.value_model.get_weights(),
        same.value_model.get_weights(),
        other.value_model.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        assert a.ndim == 1 or not np.array_equal(a, c)


def test_a_compiled_model_keeps_its_optimizer_and_may_get_another_learning_rate():
    model = tfpg.networks.mlp("CartPole-v1")
    preset = presets.find("reinforce", "CartPole-v1")
    first = presets.make("reinforce", "CartPole-v1", preset=preset, model=model)
    optimizer = model.optimizer
    again = presets.make(
        "reinforce", "CartPole-v1", preset=preset, model=model, learning_rate=0.002
    )
    assert first.model is again.model is model
    assert model.optimizer is optimizer
    assert float(optimizer.learning_rate) == pytest.approx(0.002)


@pytest.mark.slow
def test_a_model_whose_learning_rate_has_decayed_to_zero_learns_again():
    preset = presets.find("ppo", "CartPole-v1")
    model = presets.make("ppo", "CartPole-v1", preset=preset, iterations=1).model
    presets.make("ppo", "CartPole-v1", preset=preset, model=model).fit("CartPole-v1", 1, verbose=0)
    for rate in (None, 0.005):
        model.optimizer.iterations.assign(10**6)
        agent = presets.make(
            "ppo", "CartPole-v1", preset=preset._replace(learning_rate=rate or 1e-3), model=model
        )
        assert float(agent.model.optimizer.learning_rate) == pytest.approx(rate or 1e-3)


@pytest.mark.parametrize("baseline", [None, "mean", "step"])
def test_another_baseline_replaces_the_critic_of_the_preset(baseline):
    agent = presets.make("reinforce", "Acrobot-v1", baseline=baseline)
    assert (agent.baseline, agent.value_model) == (baseline, None)
    with pytest.raises(ValueError, match="gae_lambda and n_step require a value function"):
        presets.make("reinforce", "Acrobot-v1", baseline=baseline, gae_lambda=0.9)


def test_a_period_of_the_target_network_replaces_tau_of_the_preset():
    agents = presets.make("dqn", "CartPole-v1"), presets.make("dqn", "MountainCar-v0", tau=0.5)
    assert [(x.tau, x.target_update_period) for x in agents] == [(0.01, None), (0.5, None)]
    agent = presets.make("dqn", "CartPole-v1", target_update_period=500)
    assert (agent.tau, agent.target_update_period) == (None, 500)


def test_a_model_with_a_value_replaces_the_critic_of_the_preset():
    preset = presets.find("reinforce", "Acrobot-v1")
    two = tfpg.networks.actor_critic("Acrobot-v1")
    agent = presets.make("reinforce", "Acrobot-v1", preset=preset, model=two)
    assert (agent.baseline, agent.value_model, agent.model) == ("value", None, two)


def test_an_id_without_its_version_or_with_its_module_finds_its_preset():
    assert presets.find("ppo", "CartPole") == presets.find("ppo", "CartPole-v1")
    assert presets.find("dqn", "ale_py:ALE/Pong-v5") == presets.find("dqn", "ALE/Pong-v5")


def test_a_budget_has_at_least_one_iteration():
    large = presets.find("reinforce", "LunarLander-v3")
    large = large._replace(options={**large.options, "episodes_per_update": 5000})
    assert presets.iterations_of(large) == 1


def test_an_unknown_algorithm_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="Unknown algorithm 'dqm'. Did you mean 'dqn'"):
        presets.find("dqm", "CartPole-v1")


def test_the_warm_up_takes_at_most_half_of_a_small_budget():
    small = presets.with_budget(presets.find("dqn", "ALE/Pong-v5"), 600)
    assert small.options["learning_starts"] == 296  # whole steps of 8 environments
    assert small.options["steps_per_iteration"] == 288  # whole periods of 32
    tiny = presets.with_budget(presets.find("dqn", "CartPole-v1"), 100).options
    assert tiny["learning_starts"] + tiny["steps_per_iteration"] <= 100
    assert presets.with_budget(presets.find("ppo", "CartPole-v1"), 600).env_steps == 600


def test_iterations_are_shortened_to_fill_a_budget():
    preset = presets.with_budget(presets.find("dqn", "CartPole-v1"), 12_000)
    options = preset.options  # 11,000 steps are left: 11 iterations, where 10 of 1024 would fit
    assert (presets.iterations_of(preset), options["steps_per_iteration"]) == (11, 960)
    assert 11_000 - 11 * options["steps_per_iteration"] < 11 * options["learn_period"]


@pytest.mark.parametrize("env_steps", [1, 64, 127, 128, 200, 1000, 1025, 3000])
@pytest.mark.parametrize("as_asked", [1, 64, 100, 128])
def test_iterations_are_whole_learn_periods_within_the_budget(env_steps, as_asked):
    preset = presets.find("dqn", "CartPole-v1")
    preset = preset._replace(options={**preset.options, "steps_per_iteration": as_asked})
    preset = presets.with_budget(preset, env_steps)
    steps, period = (preset.options[x] for x in ("steps_per_iteration", "learn_period"))
    assert steps % period == 0 < steps <= max(as_asked, period)
    left = max(env_steps - preset.options["learning_starts"], period)
    assert presets.iterations_of(preset) * steps <= left


def test_the_iterations_of_a_preset_stay_within_its_budget():
    preset = presets.find("ppo", "CartPole-v1")
    assert presets.iterations_of(preset) * 8 * 32 <= preset.env_steps
    dqn = presets.find("dqn", "CartPole-v1")
    assert presets.iterations_of(dqn) == (50_000 - 1000) // 1024
    assert presets.iterations_of(presets.find("reinforce", "LunarLander-v3")) * 16 == 3200
