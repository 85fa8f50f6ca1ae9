"""Measure the steps per second of an Atari game: alone, before DQN learns, and while it learns.

Before it learns, DQN plays at random and fills its replay buffer. The game alone plays the same
number of steps with actions drawn in advance. The two alternate, and the median of their ratios is
printed.

    python benchmarks/atari.py --env ALE/Pong-v5
"""

import argparse
import time
from statistics import median

import keras
import numpy as np

import tfpg
from tfpg.envs import open_vec
from tfpg.rollouts.collector import Collector

# As in the DQN paper: one update of 32 transitions every four steps.
OPTIONS = {
    "batch_size": 32,
    "n_step": 1,
    "target_update_period": 128,
    "learn_period": 32,
    "updates_per_learn": 8,
    "steps_per_iteration": 256,
    "reward_clip": 1.0,
    "end_on_life_loss": True,
}


def games_alone(envs, steps: int) -> float:
    """Return the steps per second of all games together, with random actions."""
    num_actions = envs.single_action_space.n
    actions = np.random.default_rng(0).integers(num_actions, size=(steps, envs.num_envs))
    envs.reset(seed=list(range(envs.num_envs)))
    start = time.perf_counter()
    for each in actions:
        envs.step(each)
    return steps * envs.num_envs / (time.perf_counter() - start)


def before_learning(envs, model, steps: int) -> float:
    """Return the steps per second of DQN while it fills its replay buffer."""
    total = steps * envs.num_envs
    agent = tfpg.DQN(model, capacity=2 * total, learning_starts=total, **OPTIONS)
    policy = agent.policy_for(envs)
    agent.prepare(policy)
    collector = Collector(envs, seed=0)
    agent.begin(collector, policy)
    collector.collect_steps(policy, 1)  # includes the seeded resets, which are slow in ALE
    before = collector.steps
    start = time.perf_counter()
    agent.warm_up(collector, policy)
    return (collector.steps - before) / (time.perf_counter() - start)


def while_learning(env: str, num_envs: int, model, iterations: int) -> tuple[float, float]:
    """Return the environment steps and the updates per second."""
    times: list[float] = []
    agent = tfpg.DQN(model, capacity=20_000, num_envs=num_envs, **OPTIONS)
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: times.append(time.perf_counter())
    )
    agent.fit(env, iterations + 1, callbacks=[clock], seed=0, verbose=0)
    seconds = median(np.diff(times))  # without the first iteration, which compiles
    return 256 / seconds, 64 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="ALE/Pong-v5")
    parser.add_argument("--num-envs", type=int, default=8, help="a divisor of 32 (default: 8)")
    parser.add_argument("--steps", type=int, default=300, help="timed steps of each game")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs to time")
    parser.add_argument(
        "--iterations", type=int, default=4, help="iterations of 256 steps with updates"
    )
    args = parser.parse_args()
    model = tfpg.networks.nature_cnn(args.env, seed=0)
    with open_vec(args.env, args.num_envs) as envs:
        games_alone(envs, 50)  # warm up
        pairs = [
            (games_alone(envs, args.steps), before_learning(envs, model, args.steps))
            for _ in range(args.pairs)
        ]
    ratios = [before / alone for alone, before in pairs]
    print(f"{args.env}, {args.num_envs} games, {args.pairs} pairs of runs")
    print(f"the games alone    {median(x for x, _ in pairs):8,.0f} steps/s")
    print(
        f"before it learns   {median(x for _, x in pairs):8,.0f} steps/s, "
        f"{median(ratios):.0%} of that ({min(ratios):.0%} to {max(ratios):.0%})"
    )
    if args.iterations:
        steps, updates = while_learning(args.env, args.num_envs, model, args.iterations)
        print(f"while it learns    {steps:8,.0f} steps/s, {updates:,.1f} updates/s")


if __name__ == "__main__":
    main()
