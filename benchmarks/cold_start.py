"""Measure the seconds from the start of a process to a solved CartPole-v1.

Solved: the greedy policy's mean return over 100 new episodes is at least 475. The first row imports
TensorFlow and Keras and does nothing. Stable-Baselines3 trains PPO with the settings of
its zoo, stops at the same return, and runs in its own virtual environment.

    python benchmarks/cold_start.py
    python benchmarks/cold_start.py --rounds 1
"""

import argparse
import sys
import time
from functools import partial
from statistics import median

from peers import alternate, number_from, peer_python

ENV = "CartPole-v1"
SOLVED = 475


def imports() -> None:
    """Import TensorFlow and Keras."""
    import keras
    import tensorflow as tf

    assert keras.backend.backend() == "tensorflow"
    tf.zeros(())


def ours(algorithm: str) -> None:
    """Train and evaluate an algorithm of tfpg with its preset."""
    import tfpg

    agent = tfpg.presets.make(algorithm, ENV, seed=0)
    agent.fit(ENV, 1000, [tfpg.callbacks.StopAtReturn(SOLVED)], seed=0, verbose=0)
    result = tfpg.evaluate(agent, ENV, 100, seed=1)
    assert result["episode_return"] >= SOLVED, result


def peer() -> None:
    """Train and evaluate Stable-Baselines3's PPO."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    envs, others = (make_vec_env(ENV, n_envs=8, seed=seed) for seed in (0, 1))
    settings = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98}
    agent = PPO(
        "MlpPolicy", envs, learning_rate=1e-3, clip_range=0.2, seed=0, device="cpu", **settings
    )
    stop = StopTrainingOnRewardThreshold(SOLVED)
    agent.learn(500_000, EvalCallback(others, stop, n_eval_episodes=10, eval_freq=320, verbose=0))
    mean, _ = evaluate_policy(agent, others, 100)
    assert mean >= SOLVED, mean


SIDES = {
    "imports": imports,
    "reinforce": partial(ours, "reinforce"),
    "ppo": partial(ours, "ppo"),
    "Stable-Baselines3": peer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each row")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        SIDES[args.side]()
        print(0)
        return
    pythons = dict.fromkeys(SIDES, sys.executable)
    pythons["Stable-Baselines3"] = peer_python("stable-baselines3")

    def seconds(side: str) -> float:
        start = time.perf_counter()
        number_from([pythons[side], __file__, "--side", side])
        return time.perf_counter() - start

    found = alternate({side: lambda side=side: seconds(side) for side in SIDES}, args.rounds)
    print(f"{'':20}{'seconds':>8}{'above imports':>15}  (smallest to largest)")
    for side, times in found.items():
        above = [x - y for x, y in zip(times, found["imports"], strict=True)]
        # Stable-Baselines3 imports PyTorch instead.
        difference = "" if side == "Stable-Baselines3" else f"{median(above):.1f}"
        print(
            f"{side:20}{median(times):8.1f}{difference:>15}  ({min(times):.1f} to {max(times):.1f})"
        )


if __name__ == "__main__":
    main()
