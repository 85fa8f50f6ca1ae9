"""Measure tfpg on a GPU in one run: PPO in tensors, DQN on images, and the tests marked gpu.

The first table is PPO on functional CartPole, where the rollout and the updates are one compiled
call. The second one is updates of DQN with the Nature network (batch 32, images of Atari games):
tfpg with its replay buffer in main memory and on the GPU, and the usual update in PyTorch and JAX,
one at a time, from a replay buffer in main memory, as CleanRL makes them. A library that is not
installed is left out; name another Python if it is installed elsewhere.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --torch-python torch/bin/python --jax-python jax/bin/python
    CUDA_VISIBLE_DEVICES=-1 python benchmarks/gpu.py --small    # on a CPU, to check that it works
"""

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from peers import number_from

ROOT = Path(__file__).parents[1]
BATCH, CAPACITY, PER_CALL = 32, 20_000, 32
ACTIONS = 6
# Filters, size and stride of the convolutions, which are followed by 512 units.
CONVOLUTIONS = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


def ppo(num_envs: int, small: bool) -> float:
    """Return the environment steps per second of PPO on functional CartPole."""
    import tfpg
    from tfpg.envs import functional

    env = functional.CartPole()
    model = tfpg.networks.actor_critic(env, hidden=(64, 64), normalize=False, seed=0)
    updates = {"epochs": 4, "minibatches": 4, "reward_scale": 1.0}
    agent = tfpg.PPO(model, num_envs=num_envs, num_steps=32, **updates)
    agent.fit(env, 1, seed=0, verbose=0)  # compiles
    iterations = 2 if small else max(20, 2_000_000 // (32 * num_envs))
    before, start = agent.env_steps, time.perf_counter()
    agent.fit(env, iterations, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def tfpg_updates(device: str | None, small: bool) -> float:
    """Return the updates per second of tfpg's DQN, with images in main memory or on a device."""
    import keras
    from dqn_device import SpacesOnly, make_replay, median_seconds

    import tfpg

    env, rng = SpacesOnly(images=True), np.random.default_rng(0)
    replay = make_replay(env, 2000 if small else CAPACITY, rng, device)
    model = tfpg.networks.nature_cnn(env, seed=0)
    model.compile(keras.optimizers.Adam(1e-5))
    options = {"batch_size": BATCH, "updates_per_learn": PER_CALL, "target_update_period": 128}
    agent = tfpg.DQN(model, double=False, **options)
    agent.prepare(agent.policy_for(env))

    def learn() -> None:
        agent.learn_from(replay.sample(rng, PER_CALL * BATCH, BATCH))

    learn()
    return PER_CALL / median_seconds(learn, 0.5 if small else 5.0)


def images(small: bool):
    """Return random observations ``[M, 84, 84, 4]`` in main memory, and a function that samples."""
    rng = np.random.default_rng(0)
    rows = 1000 if small else CAPACITY
    observations = rng.integers(256, size=(rows, 84, 84, 4), dtype=np.uint8)
    actions = rng.integers(ACTIONS, size=rows)
    rewards = rng.normal(size=rows).astype(np.float32)

    def sample():
        chosen = rng.integers(rows - 1, size=BATCH)
        return observations[chosen], actions[chosen], rewards[chosen], observations[chosen + 1]

    return sample


def updates_per_second(update, small: bool) -> float:
    """Return how often a function runs per second, after a warm-up."""
    for _ in range(3):
        update()
    count = 10 if small else 2000
    start = time.perf_counter()
    for _ in range(count):
        last = update()
    float(last)  # waits
    return count / (time.perf_counter() - start)


def torch_updates(small: bool) -> float:
    """Return the updates per second of DQN in PyTorch."""
    import torch
    from torch import nn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def network() -> nn.Module:
        layers, channels = [], 4
        for filters, size, stride in CONVOLUTIONS:
            layers += [nn.Conv2d(channels, filters, size, stride), nn.ReLU()]
            channels = filters
        dense = [nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS)]
        return nn.Sequential(*layers, *dense).to(device)

    online, target, sample = network(), network(), images(small)
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-5)

    def update():
        batch = [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in sample()]
        seen, actions, rewards, following = batch
        seen, following = (x.permute(0, 3, 1, 2) / 255.0 for x in (seen, following))
        with torch.no_grad():
            goals = rewards + 0.99 * target(following).max(dim=1).values
        taken = online(seen).gather(1, actions[:, None])[:, 0]
        loss = nn.functional.mse_loss(taken, goals)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return updates_per_second(update, small)


def jax_updates(small: bool) -> float:
    """Return the updates per second of DQN in JAX."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = x / 255.0
            for filters, size, stride in CONVOLUTIONS:
                conv = linen.Conv(filters, (size, size), (stride, stride), padding="VALID")
                x = linen.relu(conv(x))
            x = linen.relu(linen.Dense(512)(x.reshape(len(x), -1)))
            return linen.Dense(ACTIONS)(x)

    network, sample = Network(), images(small)
    target = network.init(jax.random.PRNGKey(0), sample()[0])
    optimizer = optax.adam(1e-5)
    state = [target, optimizer.init(target)]

    @jax.jit
    def step(weights, memory, seen, actions, rewards, following):
        goals = rewards + 0.99 * network.apply(target, following).max(axis=1)

        def loss_of(weights):
            taken = network.apply(weights, seen)[jnp.arange(BATCH), actions]
            return jnp.mean((taken - goals) ** 2)

        loss, gradients = jax.value_and_grad(loss_of)(weights)
        changes, memory = optimizer.update(gradients, memory)
        return optax.apply_updates(weights, changes), memory, loss

    def update():
        state[0], state[1], loss = step(*state, *sample())
        return loss

    return updates_per_second(update, small)


def card() -> str:
    """Return the name of the GPU, or of the CPU where TensorFlow sees no GPU."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"no GPU ({platform.processor() or platform.machine()})"
    details = tf.config.experimental.get_device_details(gpus[0])
    return details.get("device_name", gpus[0].name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few and short measurements")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python with torch")
    parser.add_argument("--jax-python", default=sys.executable, help="one with jax, flax and optax")
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests marked gpu")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        name, _, value = args.side.partition(" ")
        small = args.small
        sides = {
            "ppo": lambda: ppo(int(value), small),
            "tfpg": lambda: tfpg_updates(value or None, small),
            "torch": lambda: torch_updates(small),
            "jax": lambda: jax_updates(small),
        }
        print(sides[name]())
        return
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras")]
    name = card()
    print(f"{name}; {', '.join(versions)}, Python {platform.python_version()}\n", flush=True)

    def measured(side: str, python: str = sys.executable) -> float:
        options = ["--small"] if args.small else []
        return number_from([python, __file__, "--side", side, *options])

    print("| environments | PPO, functional CartPole: steps/s |\n|---:|---:|")
    for num_envs in (1024,) if args.small else (1024, 4096, 16_384, 65_536):
        print(f"| {num_envs:,} | {measured(f'ppo {num_envs}'):,.0f} |", flush=True)
    print(f"\n| DQN, Nature network, batch {BATCH} | updates/s |\n|---|---:|")
    print(f"| tfpg, images in main memory | {measured('tfpg'):,.0f} |", flush=True)
    if not name.startswith("no GPU"):
        print(f"| tfpg, images on the GPU | {measured('tfpg GPU:0'):,.0f} |", flush=True)
    for library, python in (("torch", args.torch_python), ("jax", args.jax_python)):
        check = [python, "-c", f"import {library}"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            print(f"| {library} | {measured(library, python):,.0f} |", flush=True)
        else:
            print(f"| {library} | not installed |")
    if not args.no_tests:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
        sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
