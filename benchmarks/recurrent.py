"""Compare PPO with and without a memory, in tasks that need one.

"positions" is CartPole without its velocities. "cue" is `tfpg.envs.probes.Cue`: it shows a sign in
the first step, and asks for it 20 steps later. Scores are the mean returns of 100 new episodes,
played greedily by the last model: the interquartile mean over the seeds, with a 95% bootstrap
interval.

    python benchmarks/recurrent.py                # ten seeds: a quarter of an hour
    python benchmarks/recurrent.py cue --seeds 3 --jobs 2
"""

import argparse
import time

import gymnasium
import numpy as np
from jobs import in_processes, interval

NETWORKS = ("recurrent", "actor_critic")
TASKS = {
    "positions": {
        "env_steps": 200_000,
        "learning_rate": 1e-3,
        "anneal": True,
        "options": {
            "num_envs": 8,
            "num_steps": 128,
            "sequence_length": 16,
            "epochs": 6,
            "minibatches": 4,
        },
    },
    "cue": {
        "env_steps": 70_000,
        "learning_rate": 3e-3,
        "options": {
            "num_envs": 16,
            "num_steps": 44,
            "sequence_length": 22,
            "epochs": 4,
            "minibatches": 2,
            "gamma": 1.0,
            "gae_lambda": 1.0,
        },
    },
}


class Positions(gymnasium.ObservationWrapper):
    """CartPole without its velocities."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        space = self.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])

    def observation(self, observation):
        return observation[[0, 2]].astype(np.float32)


def train(task: str, network: str, seed: int) -> tuple[str, str, int, float, float]:
    """Return the arguments, the score and the seconds of training."""
    import tfpg
    from tfpg.envs.probes import Cue

    env = {"positions": Positions, "cue": Cue}[task]
    preset = tfpg.presets.DEFAULTS["ppo"]._replace(architecture=network, **TASKS[task])
    agent = tfpg.presets.make("ppo", env, seed, preset=preset)
    start = time.perf_counter()
    agent.fit(env, env_steps=preset.env_steps, seed=seed, verbose=0)
    seconds = time.perf_counter() - start
    score = tfpg.evaluate(agent.policy, env, 100, seed=10_000 + seed)["episode_return"]
    return task, network, seed, score, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", help="positions, cue (default: both)")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    args = parser.parse_args()
    tasks = args.tasks or list(TASKS)
    jobs = [(t, n, s) for t in tasks for n in NETWORKS for s in range(args.seeds)]
    results = []
    for result in in_processes(train, jobs, args.jobs):
        results.append(result)
        print(*result, flush=True)
    print("| task | network | return, IQM (95%) | lowest | seconds |\n|---|---|---|---|---|")
    for task in tasks:
        for network in NETWORKS:
            own = [row[3:] for row in results if row[:2] == (task, network)]
            scores, seconds = np.array(own).T
            print(
                f"| {task} | {network} | {interval(scores)} | {scores.min():.1f} | "
                f"{np.median(seconds):.0f} |"
            )


if __name__ == "__main__":
    main()
