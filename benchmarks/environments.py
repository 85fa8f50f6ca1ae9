"""Measure the steps per second of vector environments alone, with random actions.

The EnvPool rows are skipped if EnvPool is not installed. Its Atari games are made without tfpg,
which uses those of ALE.

    python benchmarks/environments.py
    python benchmarks/environments.py --num-envs 8 64 256
"""

import argparse
import importlib.util
import time
from statistics import median

import numpy as np
from peers import env_steps_per_second

IDS = ["CartPole-v1", "Acrobot-v1", "HalfCheetah-v5", "envpool/HalfCheetah-v5", "ALE/Breakout-v5"]
STEPS = {"CartPole-v1": 200_000, "ALE/Breakout-v5": 4000}  # others: 20,000


def atari_of_envpool(num_envs: int, steps: int) -> float:
    """Return the steps per second of EnvPool's Breakout."""
    import envpool

    options = {"frame_skip": 4, "stack_num": 4, "img_height": 84, "img_width": 84}
    envs = envpool.make("Breakout-v5", env_type="gymnasium", num_envs=num_envs, **options)
    envs.reset()
    actions = np.random.default_rng(0).integers(4, size=(100, num_envs))
    start = time.perf_counter()
    for t in range(steps // num_envs):
        envs.step(actions[t % 100])
    return steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each cell")
    args = parser.parse_args()
    has_envpool = importlib.util.find_spec("envpool") is not None
    print("| steps/s with | " + " | ".join(f"{n} environments" for n in args.num_envs) + " |")
    print("|---|" + "---:|" * len(args.num_envs))
    for env_id in [*IDS, "EnvPool's Breakout"]:
        if "envpool" in env_id.lower() and not has_envpool:
            continue
        steps, cells = STEPS.get(env_id, 20_000), []
        for num_envs in args.num_envs:
            speeds = [
                atari_of_envpool(num_envs, 4000)
                if "EnvPool's" in env_id
                else env_steps_per_second(env_id, num_envs, steps)
                for _ in range(args.rounds)
            ]
            cells.append(f"{median(speeds):,.0f}")
        print(f"| {env_id} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
