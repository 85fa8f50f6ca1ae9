"""Compare PPO on functional CartPole with PureJaxRL, whose environment is compiled, too.

Both train networks with two layers of 64 units, in 4 epochs of 4 minibatches. Every measurement
runs in its own process. Steps per second exclude compilation. "start to solved" is the time from
the start of a process, imports and compilation included: for tfpg until a greedy return of 475 over
100 episodes is measured, for PureJaxRL until the mean return of an iteration's episodes is 475.
(Its training cannot be stopped early, so the share of the time after that is subtracted.) There,
tfpg has 16 environments, 64 steps and a learning rate of 1e-3, and PureJaxRL its own settings: 4
environments, 128 steps, and 2.5e-4, which decays.

PureJaxRL is not on PyPI. Its source is cloned into benchmarks/.peers, or taken from a folder:

    python benchmarks/functional_speed.py
    python benchmarks/functional_speed.py --source purejaxrl --rounds 3
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from peers import FOLDER, alternate, number_from, peer_python, ratio

REPOSITORY = "https://github.com/luchris429/purejaxrl"
COMMIT = "31756b197773a52db763fdbe6d635e4b46522a73"

# Environments, steps, and environment steps that are timed.
SETTINGS = {
    "4x128": (4, 128, 512_000),
    "64x128": (64, 128, 1_638_400),
    "1024x32": (1024, 32, 1_310_720),
}


def of_peer(num_envs: int, num_steps: int, steps: int, source: str):
    """Return PureJaxRL's compiled training, a function of a seed."""
    import types

    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = types.ModuleType(name)  # imported for other tasks
    training = sys.modules["brax.envs.wrappers.training"]
    training.EpisodeWrapper = training.AutoResetWrapper = object
    sys.modules["brax"].envs = sys.modules["brax.envs"]
    sys.path.insert(0, str(Path(source) / "purejaxrl"))
    import jax
    import ppo

    config = {
        "LR": 2.5e-4,
        "NUM_ENVS": num_envs,
        "NUM_STEPS": num_steps,
        "TOTAL_TIMESTEPS": steps,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ENV_NAME": "CartPole-v1",
        "ANNEAL_LR": True,
        "DEBUG": False,
    }
    compiled = jax.jit(ppo.make_train(config)).lower(jax.random.PRNGKey(0)).compile()
    return lambda seed: jax.block_until_ready(compiled(jax.random.PRNGKey(seed)))


def agent_of(num_envs: int, num_steps: int, learning_rate: float = 2.5e-4):
    """Return the agent of tfpg and its environment."""
    import keras

    import tfpg
    from tfpg.envs import functional

    env = functional.CartPole()
    model = tfpg.networks.actor_critic(env, hidden=(64, 64), normalize=False, seed=0)
    model.compile(keras.optimizers.Adam(learning_rate, epsilon=1e-5, global_clipnorm=0.5))
    sizes = {"num_envs": num_envs, "num_steps": num_steps, "epochs": 4, "minibatches": 4}
    agent = tfpg.PPO(model, entropy_coef=0.01, reward_scale=1.0, **sizes)
    return agent, env


def tfpg_speed(setting: str, source: str) -> float:
    """Return steps per second."""
    num_envs, num_steps, steps = SETTINGS[setting]
    agent, env = agent_of(num_envs, num_steps)
    agent.fit(env, 1, seed=0, verbose=0)  # compiles
    before, start = agent.env_steps, time.perf_counter()
    agent.fit(env, steps // (num_envs * num_steps), seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def peer_speed(setting: str, source: str) -> float:
    """Return steps per second."""
    num_envs, num_steps, steps = SETTINGS[setting]
    train = of_peer(num_envs, num_steps, steps, source)
    train(0)
    start = time.perf_counter()
    train(1)
    return steps / (time.perf_counter() - start)


def tfpg_solves(setting: str, source: str) -> float:
    """Return the seconds after it was solved."""
    import tfpg

    agent, env = agent_of(16, 64, learning_rate=1e-3)
    agent.fit(env, 400, [tfpg.callbacks.StopAtReturn(475)], seed=0, verbose=0)
    assert tfpg.evaluate(agent, "CartPole-v1", 100, seed=1)["episode_return"] >= 475
    return 0.0


def peer_solves(setting: str, source: str) -> float:
    """Return the seconds after it was solved."""
    train = of_peer(4, 128, 500_000, source)
    start = time.perf_counter()
    returns = np.asarray(train(0)["metrics"]["returned_episode_returns"])
    seconds = time.perf_counter() - start
    solved = returns.reshape(len(returns), -1).mean(axis=1) >= 475
    assert solved.any()
    return seconds * (1 - solved.argmax() / len(solved))


SIDES = {
    "tfpg": tfpg_speed,
    "peer": peer_speed,
    "tfpg solves": tfpg_solves,
    "peer solves": peer_solves,
}


def source_of_peer() -> Path:
    """Return the folder of PureJaxRL's source, which is cloned if it is missing."""
    folder = FOLDER / "purejaxrl-source"
    if not folder.exists():
        subprocess.run(["git", "clone", "-q", REPOSITORY, folder], check=True)
        subprocess.run(["git", "-C", folder, "checkout", "-q", COMMIT], check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--source", type=Path, help="a folder with PureJaxRL's source")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--setting", choices=list(SETTINGS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(SIDES[args.side](args.setting, args.source))
        return
    source = args.source or source_of_peer()
    pythons = {"tfpg": sys.executable, "peer": peer_python("purejaxrl")}

    def command(side: str, setting: str) -> list:
        parts = [pythons[side.split()[0]], __file__, "--side", side, "--setting", setting]
        return [*parts, "--source", source]

    print(f"{'setting':18}{'tfpg':>10}{'PureJaxRL':>11}  ratio (smallest to largest)")
    for name in SETTINGS:
        sides = {s: lambda s=s, name=name: number_from(command(s, name)) for s in pythons}
        found = alternate(sides, args.rounds)
        ours, theirs = found.values()
        print(f"{name:18}{median(ours):10,.0f}{median(theirs):11,.0f}  {ratio(ours, theirs)}")

    def seconds(side: str) -> float:
        start = time.perf_counter()
        after = number_from(command(side, "4x128"))
        return time.perf_counter() - start - after

    sides = {f"{s} solves": lambda s=s: seconds(f"{s} solves") for s in pythons}
    ours, theirs = alternate(sides, args.rounds).values()
    print(
        f"{'start to solved':18}{median(ours):8.1f} s{median(theirs):9.1f} s  {ratio(theirs, ours)}"
    )


if __name__ == "__main__":
    main()
