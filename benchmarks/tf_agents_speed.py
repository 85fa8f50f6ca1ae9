"""Compare the environment steps per second of REINFORCE with TF-Agents.

Both do the work of benchmarks/textbook.py: CartPole-v1, a network with 20 and 10 units, 10 episodes
of at most 200 steps per update, gamma 0.95, Adam 0.01. TF-Agents plays with its own driver, keeps
episodes in its own replay buffer, and compiles both; it needs an older TensorFlow, in its own
virtual environment. Timing starts after compilation.

    python benchmarks/tf_agents_speed.py
"""

import os
import time

from peers import compare

ENV = "CartPole-v1"
SETTINGS = {"10 episodes": 10}
WARM_UP, ITERATIONS = 3, 40


def of_tf_agents(name: str) -> float:
    """Return the steps per second of TF-Agents."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    from tf_agents.agents.reinforce.reinforce_agent import ReinforceAgent
    from tf_agents.drivers.dynamic_episode_driver import DynamicEpisodeDriver
    from tf_agents.environments import suite_gym, tf_py_environment, wrappers
    from tf_agents.metrics.tf_metrics import EnvironmentSteps
    from tf_agents.networks.actor_distribution_network import ActorDistributionNetwork
    from tf_agents.replay_buffers.tf_uniform_replay_buffer import TFUniformReplayBuffer
    from tf_agents.utils import common

    env = tf_py_environment.TFPyEnvironment(wrappers.TimeLimit(suite_gym.load(ENV), 200))
    network = ActorDistributionNetwork(
        env.observation_spec(), env.action_spec(), fc_layer_params=(20, 10)
    )
    agent = ReinforceAgent(
        env.time_step_spec(),
        env.action_spec(),
        actor_network=network,
        optimizer=tf.keras.optimizers.legacy.Adam(0.01),
        gamma=0.95,
        normalize_returns=True,
    )
    agent.initialize()
    steps = EnvironmentSteps()
    replay = TFUniformReplayBuffer(agent.collect_data_spec, env.batch_size, max_length=5000)
    driver = DynamicEpisodeDriver(
        env,
        agent.collect_policy,
        observers=[replay.add_batch, steps],
        num_episodes=SETTINGS[name],
    )
    play, learn = common.function(driver.run), common.function(agent.train)

    def iterate() -> None:
        play()
        learn(replay.gather_all())
        replay.clear()

    for _ in range(WARM_UP):
        iterate()
    before, start = int(steps.result()), time.perf_counter()
    for _ in range(ITERATIONS):
        iterate()
    return (int(steps.result()) - before) / (time.perf_counter() - start)


def of_tfpg(name: str) -> float:
    """Return the steps per second of tfpg."""
    import keras

    import tfpg

    model = tfpg.networks.mlp(ENV, hidden=(20, 10), activation="elu", seed=0)
    model.compile(keras.optimizers.Adam(0.01))
    options = {
        "gamma": 0.95,
        "episodes_per_update": SETTINGS[name],
        "baseline": None,
        "entropy_coef": 0.0,
        "max_steps": 200,
    }
    agent = tfpg.Reinforce(model, **options)
    agent.fit(ENV, WARM_UP, seed=0, verbose=0)
    before, start = agent.env_steps, time.perf_counter()
    agent.fit(ENV, WARM_UP + ITERATIONS, initial_iteration=WARM_UP, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


if __name__ == "__main__":
    sides = {"tfpg": of_tfpg, "peer": of_tf_agents}
    compare(__doc__, __file__, sides, SETTINGS, "tf-agents", "TF-Agents")
