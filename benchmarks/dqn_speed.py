"""Environment steps per second of tfpg.DQN beside Stable-Baselines3's, on CartPole, in one run.

Both learn from the same numbers of steps, updates and transitions, with the same network, optimizer
(Adam, clipped at a norm of 10), plain targets, huber loss and exploration. Stable-Baselines3 runs
in an environment of its own, whose Python is given; pairs alternate, each a process, and the clock
runs after compilation and warm-up. A ratio is of two neighbours in time.

    python benchmarks/dqn_speed.py --peer-python peer/bin/python
    python benchmarks/dqn_speed.py --peer-python peer/bin/python --threads 1 --pairs 3

tfpg's rows: `overlap` steps the environments while the updates run; "8 envs" of the zoo's setting
keeps its updates per step, and only plays side by side; "128 at once" plays as many steps and then
makes as many updates in one call, where Stable-Baselines3 makes 8 after 8.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HOW_TO = """Stable-Baselines3 is measured in a virtual environment of its own. To make one:
    python -m venv peer
    peer/bin/pip install torch==2.13.0 stable-baselines3==2.9.2 'gymnasium[classic-control]'
and give its Python: --peer-python peer/bin/python"""

ENV = "CartPole-v1"
LEARNING_STARTS = 1000

# "target" counts updates between copies, "learn" steps and updates in turn. Exploration falls
# from 1 over "falls" steps to "end".
SETTINGS = {
    "an update a step, 64-64, batch 32": {
        "hidden": [64, 64],
        "batch": 32,
        "rate": 1e-3,
        "num_envs": 8,
        "learn": [8, 8],
        "target": 100,
        "epsilon": [8000, 0.05],
    },
    "zoo: 128 every 256 steps, 256-256, batch 64": {
        "hidden": [256, 256],
        "batch": 64,
        "rate": 2.3e-3,
        "num_envs": 1,
        "learn": [256, 128],
        "target": 128,
        "epsilon": [8000, 0.04],
    },
}
# Of each setting: what tfpg has otherwise. It makes many updates in one call.
VARIANTS = {
    "an update a step, 64-64, batch 32": [
        ("8 envs, 128 at once", {"num_envs": 8, "learn": [128, 128]}),
        ("8 envs, 256 at once", {"num_envs": 8, "learn": [256, 256]}),
    ],
    "zoo: 128 every 256 steps, 256-256, batch 64": [
        ("1 env", {"num_envs": 1}),
        ("8 envs", {"num_envs": 8}),
    ],
}


def measure_peer(setting: dict, steps: int, threads: int | None) -> float:
    """Steps per second of Stable-Baselines3, once its replay has learning_starts steps."""
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    if threads:
        torch.set_num_threads(threads)
    period, updates = setting["learn"]
    falls, end = setting["epsilon"]
    num_envs = setting["num_envs"]
    envs = make_vec_env(ENV, n_envs=num_envs, seed=0)
    warm = LEARNING_STARTS + 10 * max(period, num_envs)
    agent = DQN(
        "MlpPolicy",
        envs,
        learning_rate=setting["rate"],
        batch_size=setting["batch"],
        buffer_size=100_000,
        learning_starts=LEARNING_STARTS,
        gamma=0.99,
        train_freq=period // num_envs,
        gradient_steps=updates,
        # Environment steps, and copied in a step's course: here as many updates' worth.
        target_update_interval=max(1, setting["target"] * period // updates),
        max_grad_norm=10.0,
        exploration_initial_eps=1.0,
        exploration_fraction=falls / (warm + steps),
        exploration_final_eps=end,
        policy_kwargs={"net_arch": setting["hidden"]},
        device="cpu",
        seed=0,
    )
    agent.learn(warm, progress_bar=False)
    # Not reset: epsilon and the steps go on where they were.
    before = agent.num_timesteps
    start = time.perf_counter()
    agent.learn(steps, reset_num_timesteps=False, progress_bar=False)
    return (agent.num_timesteps - before) / (time.perf_counter() - start)


def measure_tfpg(setting: dict, steps: int) -> float:
    """Steps per second of tfpg, after iterations that compiled."""
    import keras

    import tfpg

    period, updates = setting["learn"]
    falls, end = setting["epsilon"]
    model = tfpg.networks.mlp(ENV, hidden=setting["hidden"], activation="relu", seed=0)
    model.compile(optimizer=keras.optimizers.Adam(setting["rate"], global_clipnorm=10.0))
    iteration = 1024
    agent = tfpg.DQN(
        model,
        gamma=0.99,
        double=False,
        batch_size=setting["batch"],
        capacity=100_000,
        learn_period=period,
        updates_per_learn=updates,
        target_update_period=setting["target"],
        epsilon=tfpg.schedules.linear(1.0, end, falls),
        learning_starts=LEARNING_STARTS,
        num_envs=setting["num_envs"],
        steps_per_iteration=iteration,
        overlap=setting["overlap"],
    )
    agent.fit(ENV, 2, seed=0, verbose=0)
    before = agent.env_steps
    start = time.perf_counter()
    iterations = 2 + max(1, steps // iteration)
    agent.fit(ENV, iterations, initial_iteration=2, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def run(python: str, side: str, setting: dict, steps: int, threads: int | None) -> float:
    """The number that a process of its own measures."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if threads:
        environment |= {
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
        }
    command = [python, __file__, "--side", side, "--setting", json.dumps(setting)]
    command += ["--steps", str(steps), *(["--threads", str(threads)] if threads else [])]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["steps_per_second"]


def ready(peer: str | None) -> bool:
    """Whether that Python has what is measured."""
    if peer is None or not Path(peer).exists():
        return False
    check = [peer, "-c", "import stable_baselines3, torch, gymnasium.envs.classic_control"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="a Python with stable-baselines3 and torch")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10_240, help="that are timed, of each")
    parser.add_argument("--threads", type=int, help="of each side's arithmetic (default: its own)")
    parser.add_argument("--side", choices=["tfpg", "sb3"], help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        if args.side == "sb3":
            speed = measure_peer(args.setting, args.steps, args.threads)
        else:
            speed = measure_tfpg(args.setting, args.steps)
        print(json.dumps({"steps_per_second": speed}))
        return
    if not ready(args.peer_python):
        sys.exit(HOW_TO)
    print(f"{'setting':44}{'tfpg':>29}{'tfpg/s':>9}{'SB3/s':>8}  ratio (min to max)", flush=True)
    for name, base in SETTINGS.items():
        rows = [
            (f"{label}{', overlap' if overlap else ''}", {**base, **changes, "overlap": overlap})
            for label, changes in VARIANTS[name]
            for overlap in (False, True)
        ]
        speeds = {label: [] for label, _ in rows}
        peers, ratios = [], {label: [] for label, _ in rows}
        for pair in range(args.pairs):
            # Who is first alternates: what slows the machine down for a while slows both.
            sides = [("sb3", None), *rows] if pair % 2 == 0 else [*rows[::-1], ("sb3", None)]
            found = {}
            for label, setting in sides:
                if label == "sb3":
                    found[label] = run(args.peer_python, "sb3", base, args.steps, args.threads)
                else:
                    found[label] = run(sys.executable, "tfpg", setting, args.steps, args.threads)
            peers.append(found["sb3"])
            for label, _ in rows:
                speeds[label].append(found[label])
                ratios[label].append(found[label] / found["sb3"])
        for label, _ in rows:
            ratio = ratios[label]
            print(
                f"{name:44}{label:>29}{median(speeds[label]):9,.0f}{median(peers):8,.0f}"
                f"  {median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
