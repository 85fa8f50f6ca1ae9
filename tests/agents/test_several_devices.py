"""Updates that are divided among devices, here two logical CPUs, equal those of one device."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib, json, sys, tempfile
import keras, numpy as np, tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tfpg, tfpg.agents.registry, tfpg.envs

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
SMALL = {
    "ppo": ("Acrobot-v1", {"num_envs": 4, "num_steps": 16, "minibatches": 2, "epochs": 2}),
    "a2c": ("Pendulum-v1", {"num_envs": 4, "num_steps": 16, "log_std": -0.5}),
    "dqn": ("Acrobot-v1", {
        "num_envs": 4, "learning_starts": 64, "steps_per_iteration": 64, "batch_size": 31,
        "prioritized": True,
    }),
    "sac": ("Pendulum-v1", {
        "num_envs": 4, "learning_starts": 64, "steps_per_iteration": 64, "batch_size": 31,
    }),
    "reinforce": ("Acrobot-v1", {"episodes_per_update": 3, "max_steps": 20}),
}


def make(name, devices, optimizer):
    env, options = SMALL[name]
    with strategy.scope() if devices == 2 else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        shape = tfpg.envs.spaces_of(env)[0].shape
        layers, x = keras.layers, keras.Input(shape)
        y = layers.Dense(16, "tanh", kernel_regularizer=keras.regularizers.L2(0.01))(x)
        actions = layers.Dense({"a2c": 1, "sac": 2}.get(name, 3))(y)
        outputs = [actions, layers.Dense(1)(y)] if name in ("ppo", "a2c") else actions
        model = keras.Model(x, outputs)
        if optimizer is not None:
            model.compile(optimizer=keras.optimizers.get(optimizer))
        if name == "sac":
            options = {**options, "critic": tfpg.networks.twin_critic(env, (16,), seed=0)}
    return tfpg.agents.registry.algorithm_class(name)(model, **options)


def train(agent, name, iterations, **options):
    history = agent.fit(SMALL[name][0], iterations, seed=1, verbose=0, **options).history
    weights = agent.model.get_weights() + [np.array(v) for v in agent.policy.head.variables]
    return weights, history


found = {}
for name in SMALL:
    found[name] = {}
    for kind in ("clipnorm", "global_clipnorm", None) if name == "ppo" else ("global_clipnorm",):
        config = {"learning_rate": 0.02, "momentum": 0.9, kind or "clipvalue": 0.3}
        optimizer = {"class_name": "SGD", "config": config}
        one, two = (train(make(name, n, optimizer), name, 3) for n in (1, 2))
        size = max(np.abs(x).max() for x in one[0])
        found[name][str(kind)] = max(
            float(np.abs(a - b).max() / size) for a, b in zip(one[0], two[0], strict=True)
        )
    whole = train(make(name, 2, None), name, 3)
    with tempfile.TemporaryDirectory() as folder:
        train(make(name, 2, None), name, 2, checkpoints=folder)
        agent = make(name, 2, None)
        resumed = train(agent, name, 3, checkpoints=folder)
        agent.save(folder + "/model.keras")
        loaded = keras.saving.load_model(folder + "/model.keras")
    found[name]["resumed"] = all(np.array_equal(a, b) for a, b in zip(whole[0], resumed[0]))
    pairs = zip(agent.model.get_weights(), loaded.get_weights(), strict=True)
    found[name]["loaded"] = all(np.array_equal(a, b) for a, b in pairs)
    found[name]["played"] = agent.evaluate(SMALL[name][0], 1, seed=0)["episodes"]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_devices_learn_as_one_does_and_resume():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"ppo", "a2c", "dqn", "sac", "reinforce"}
    for name, results in found.items():
        differences = [x for x in results.values() if isinstance(x, float)]
        assert len(differences) == (3 if name == "ppo" else 1)
        assert max(differences) < 1e-5, name
        assert results["resumed"] is True, name
        assert results["loaded"] is True, name
        assert results["played"] == 1, name
