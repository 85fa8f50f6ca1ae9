"""Compare the steps per second of environments in one process and in worker processes.

Workers pay off if a step takes longer than an exchange between processes: then K processes on K
cores are nearly K times as fast. The steps sleep, as if they waited for a simulator; with
``--busy`` they compute, which needs idle cores.

    python benchmarks/workers.py
"""

import argparse
import time
from functools import partial

import gymnasium
import numpy as np

from tfpg.envs import open_vec


class SlowEnv(gymnasium.Env):
    """An environment whose steps take a given time."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, milliseconds: float, size: int, busy: bool):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,), np.float32)
        self.seconds, self.busy = milliseconds / 1000, busy
        self.observation = np.zeros(size, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation, {}

    def step(self, action):
        end = time.perf_counter() + self.seconds
        if self.seconds and not self.busy:
            time.sleep(self.seconds)
        while time.perf_counter() < end:
            pass
        return self.observation, 0.0, False, False, {}


def steps_per_second(envs, seconds: float) -> float:
    """Return the steps per second of all environments together."""
    envs.reset(seed=0)
    actions = np.zeros(envs.num_envs, int)
    envs.step(actions)
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        envs.step(actions)
        count += envs.num_envs
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=8, help="number of environments")
    parser.add_argument("--workers", type=int, default=2, help="number of worker processes")
    parser.add_argument(
        "--milliseconds",
        type=float,
        nargs="+",
        default=[0.0, 0.1, 0.5, 2.0],
        help="times of a step to measure",
    )
    parser.add_argument("--size", type=int, default=4, help="numbers in an observation")
    parser.add_argument("--busy", action="store_true", help="compute instead of sleeping")
    parser.add_argument("--seconds", type=float, default=2.0, help="time of each measurement")
    args = parser.parse_args()
    print(f"   ms/step     one process   {args.workers} workers   ratio")
    for milliseconds in args.milliseconds:
        make_env = partial(SlowEnv, milliseconds, args.size, args.busy)
        speeds = []
        for workers in (None, args.workers):
            with open_vec(make_env, args.num_envs, workers=workers) as envs:
                speeds.append(steps_per_second(envs, args.seconds))
        one, many = speeds
        print(f"{milliseconds:12.1f}{one:14,.0f}{many:12,.0f}{many / one:8.2f}", flush=True)


if __name__ == "__main__":
    main()
