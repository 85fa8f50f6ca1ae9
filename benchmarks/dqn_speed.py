"""Compare the environment steps per second of tfpg.DQN and Stable-Baselines3 on CartPole.

Both make the same numbers of steps and updates with the same batch size, network, optimizer (Adam,
clipped at a norm of 10), plain targets, Huber loss and exploration. Stable-Baselines3 runs in its
own virtual environment. Every measurement is a process, whose clock starts after compilation and
warm-up. Each of several rounds measures everything once; a ratio compares speeds of one round.

    python benchmarks/dqn_speed.py --peer-python peer/bin/python
    python benchmarks/dqn_speed.py --peer-python peer/bin/python --threads 1 --pairs 3

Rows of tfpg: "overlap" steps the environments while the updates run. "128 at once" plays 128 steps
and then makes 128 updates in one call, where Stable-Baselines3 makes 8 updates after 8 steps.
"8 envs" plays the steps of the zoo's setting in 8 environments instead of one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HOW_TO = """Stable-Baselines3 needs its own virtual environment. Create it:
    python -m venv peer
    peer/bin/pip install torch==2.13.0 stable-baselines3==2.9.2 'gymnasium[classic-control]'
and pass its Python: --peer-python peer/bin/python"""

ENV = "CartPole-v1"
LEARNING_STARTS = 1000
ITERATION = 1024  # steps of an iteration of tfpg

# "learn": steps between updates, and the number of updates. "target": updates between copies into
# the target network. "epsilon": steps over which it decays from 1, and its final value.
# "variants": what tfpg does differently, by row.
SETTINGS = {
    "one update per step, 64-64, batch 32": {
        "hidden": [64, 64],
        "batch": 32,
        "learning_rate": 1e-3,
        "num_envs": 8,
        "learn": [8, 8],
        "target": 100,
        "epsilon": [8000, 0.05],
        "variants": {
            "8 envs, 128 at once": {"learn": [128, 128]},
            "8 envs, 256 at once": {"learn": [256, 256]},
        },
    },
    "zoo: 128 every 256 steps, 256-256, batch 64": {
        "hidden": [256, 256],
        "batch": 64,
        "learning_rate": 2.3e-3,
        "num_envs": 1,
        "learn": [256, 128],
        "target": 128,
        "epsilon": [8000, 0.04],
        "variants": {"1 env": {}, "8 envs": {"num_envs": 8}},
    },
}


def measure_peer(setting: dict, steps: int, threads: int | None) -> float:
    """Return the steps per second of Stable-Baselines3."""
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    if threads:
        torch.set_num_threads(threads)
    period, updates = setting["learn"]
    decay_steps, final_epsilon = setting["epsilon"]
    num_envs = setting["num_envs"]
    envs = make_vec_env(ENV, n_envs=num_envs, seed=0)
    warm_up = LEARNING_STARTS + 10 * max(period, num_envs)
    agent = DQN(
        "MlpPolicy",
        envs,
        learning_rate=setting["learning_rate"],
        batch_size=setting["batch"],
        buffer_size=100_000,
        learning_starts=LEARNING_STARTS,
        gamma=0.99,
        train_freq=period // num_envs,
        gradient_steps=updates,
        # Counted in environment steps, not in updates.
        target_update_interval=max(1, setting["target"] * period // updates),
        max_grad_norm=10.0,
        exploration_initial_eps=1.0,
        exploration_fraction=decay_steps / (warm_up + steps),
        exploration_final_eps=final_epsilon,
        policy_kwargs={"net_arch": setting["hidden"]},
        device="cpu",
        seed=0,
    )
    agent.learn(warm_up, progress_bar=False)
    before = agent.num_timesteps
    start = time.perf_counter()
    # Without a reset, so that epsilon and the steps continue.
    agent.learn(steps, reset_num_timesteps=False, progress_bar=False)
    return (agent.num_timesteps - before) / (time.perf_counter() - start)


def measure_tfpg(setting: dict, steps: int) -> float:
    """Return the steps per second of tfpg."""
    import keras

    import tfpg

    period, updates = setting["learn"]
    decay_steps, final_epsilon = setting["epsilon"]
    model = tfpg.networks.mlp(ENV, hidden=setting["hidden"], activation="relu", seed=0)
    optimizer = keras.optimizers.Adam(setting["learning_rate"], global_clipnorm=10.0)
    model.compile(optimizer=optimizer)
    agent = tfpg.DQN(
        model,
        gamma=0.99,
        double=False,
        batch_size=setting["batch"],
        capacity=100_000,
        learn_period=period,
        updates_per_learn=updates,
        target_update_period=setting["target"],
        epsilon=tfpg.schedules.linear(1.0, final_epsilon, decay_steps),
        learning_starts=LEARNING_STARTS,
        num_envs=setting["num_envs"],
        steps_per_iteration=ITERATION,
        overlap=setting["overlap"],
    )
    agent.fit(ENV, 2, seed=0, verbose=0)  # compiles
    before = agent.env_steps
    start = time.perf_counter()
    iterations = 2 + max(1, steps // ITERATION)
    agent.fit(ENV, iterations, initial_iteration=2, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def run(python: str, side: str, setting: dict, args: argparse.Namespace) -> float:
    """Return the steps per second that a new process measures."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, __file__, "--side", side, "--setting", json.dumps(setting)]
    command += ["--steps", str(args.steps)]
    if args.threads:
        threads = str(args.threads)
        environment |= {"TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads}
        command += ["--threads", threads]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def is_ready(peer: str | None) -> bool:
    """Return whether a Python has Stable-Baselines3 and CartPole."""
    if peer is None or not Path(peer).exists():
        return False
    check = [peer, "-c", "import stable_baselines3, torch, gymnasium.envs.classic_control"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def compare(name: str, setting: dict, args: argparse.Namespace) -> None:
    """Measure a setting, and print a row for each variant of tfpg."""
    base = {key: value for key, value in setting.items() if key != "variants"}
    variants = {
        label + ", overlap" * overlap: {**base, **changes, "overlap": overlap}
        for label, changes in setting["variants"].items()
        for overlap in (False, True)
    }
    peers, speeds = [], {label: [] for label in variants}
    for pair in range(args.pairs):
        # The order alternates, so that a slow phase of the machine affects both sides.
        order = [None, *variants] if pair % 2 == 0 else [*reversed(variants), None]
        for label in order:
            if label is None:
                peers.append(run(args.peer_python, "sb3", base, args))
            else:
                speeds[label].append(run(sys.executable, "tfpg", variants[label], args))
    for label, ours in speeds.items():
        ratios = [speed / peer for speed, peer in zip(ours, peers, strict=True)]
        print(
            f"{name:44}{label:>29}{median(ours):9,.0f}{median(peers):8,.0f}"
            f"  {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="a Python with stable-baselines3 and torch")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of measurements")
    parser.add_argument("--steps", type=int, default=10_240, help="timed steps of each run")
    parser.add_argument("--threads", type=int, help="threads of each side (default: its own)")
    parser.add_argument("--side", choices=["tfpg", "sb3"], help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side == "sb3":
        print(measure_peer(args.setting, args.steps, args.threads))
    elif args.side == "tfpg":
        print(measure_tfpg(args.setting, args.steps))
    elif not is_ready(args.peer_python):
        sys.exit(HOW_TO)
    else:
        head = f"{'setting':44}{'tfpg':>29}{'tfpg/s':>9}{'SB3/s':>8}  ratio (min to max)"
        print(head, flush=True)
        for name, setting in SETTINGS.items():
            compare(name, setting, args)


if __name__ == "__main__":
    main()
