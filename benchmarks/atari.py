"""Steps per second of an Atari game: the game alone, before DQN learns, and while it learns.

Before it learns, DQN plays at random and fills its replay. The game alone plays the same number of
steps with actions that were drawn in advance. The two alternate, and the median of their ratios is
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


def alone(envs, steps: int) -> float:
    actions = envs.single_action_space.n
    drawn = np.random.default_rng(0).integers(actions, size=(steps, envs.num_envs))
    envs.reset(seed=list(range(envs.num_envs)))
    start = time.perf_counter()
    for each in drawn:
        envs.step(each)
    return steps * envs.num_envs / (time.perf_counter() - start)


def before_learning(envs, model, steps: int) -> float:
    agent = tfpg.DQN(
        model,
        capacity=2 * steps * envs.num_envs,
        num_envs=envs.num_envs,
        learning_starts=steps * envs.num_envs,
        reward_clip=1.0,
        end_on_life_loss=True,
    )
    policy = agent.policy_for(envs)
    agent.prepare(policy)
    collector = Collector(envs, seed=0)
    collector.collect_steps(policy, 1)  # includes the seeded resets, which take ALE long
    start = time.perf_counter()
    agent.warm_up(collector, policy)
    return agent.env_steps / (time.perf_counter() - start)


def learning(env: str, model, iterations: int) -> tuple[float, float]:
    """Return environment steps and updates per second; one update of 32 every four steps."""
    times: list[float] = []
    agent = tfpg.DQN(
        model,
        capacity=20_000,
        batch_size=32,
        learn_period=32,
        updates_per_learn=8,
        steps_per_iteration=256,
        reward_clip=1.0,
        end_on_life_loss=True,
    )
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: times.append(time.perf_counter())
    )
    agent.fit(env, iterations + 1, callbacks=[clock], seed=0, verbose=0)
    seconds = median(np.diff(times))
    return 256 / seconds, 64 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="ALE/Pong-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300, help="timed steps of each game")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument(
        "--iterations", type=int, default=4, help="iterations of 256 steps while it learns"
    )
    args = parser.parse_args()
    model = tfpg.networks.nature_cnn(args.env, seed=0)
    with open_vec(args.env, args.num_envs) as envs:
        alone(envs, 50)
        pairs = [
            (alone(envs, args.steps), before_learning(envs, model, args.steps))
            for _ in range(args.pairs)
        ]
    ratios = [before / reference for reference, before in pairs]
    print(f"{args.env}, {args.num_envs} games, {args.pairs} pairs of runs")
    print(f"the games alone    {median(x for x, _ in pairs):8,.0f} steps/s")
    print(
        f"before it learns   {median(x for _, x in pairs):8,.0f} steps/s, "
        f"{median(ratios):.0%} of that ({min(ratios):.0%} to {max(ratios):.0%})"
    )
    if args.iterations:
        steps, updates = learning(args.env, model, args.iterations)
        print(f"while it learns    {steps:8,.0f} steps/s, {updates:,.1f} updates/s")


if __name__ == "__main__":
    main()
