"""Measure what action masks gain, and that no invalid action is ever taken with them.

The game is `tfpg.envs.probes.Divisors`: from a random number up to 64, subtract a proper divisor in
each step until the number is 1. An invalid action ends the episode. The best policy is known from
dynamic programming, and the return of a greedy policy is computed exactly, from each number.

Each algorithm trains with its defaults, with masks and without, until its greedy policy is within
0.1 steps of the best one. Then its policy with masks plays a million steps, half of them greedily.

    python benchmarks/action_masks.py
    python benchmarks/action_masks.py --only ppo reinforce a2c dqn
    python benchmarks/action_masks.py --only c51 qrdqn rainbow --env-steps 4000
"""

import argparse

import numpy as np

MARGIN = 0.1  # steps


def mean_return(policy, env) -> float:
    """Return the exact mean return of the greedy policy."""
    numbers = np.arange(2, env.largest + 1)
    masks = np.stack([env.valid(number) for number in numbers])
    seen = {"observation": numbers, "action_mask": masks} if env.masks else numbers
    returns = np.zeros(env.largest + 1)
    for number, mask, action in zip(numbers, masks, policy.act(seen), strict=True):
        valid = mask[action]
        returns[number] = returns[number - 1 - action] - 1 if valid else -env.largest
    return returns[2:].mean()


def train(algorithm: str, masks: bool, env_steps: int, seed: int):
    """Train, and return the policy, the steps until it was solved or None, and its best return."""
    import keras

    import tfpg
    from tfpg.envs.probes import Divisors

    def build():
        return Divisors(masks=masks)

    best = -Divisors().fewest_steps()[2:].mean()
    measured = []

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            measured.append((int(logs["env_steps"]), mean_return(agent.policy, build())))
            if measured[-1][1] > best - MARGIN:
                self.model.stop_training = True

    agent = tfpg.presets.make(algorithm, build, seed=seed)
    agent.fit(build, env_steps=env_steps, seed=seed, callbacks=[Measure()], verbose=0)
    steps, returned = measured[-1]
    top = max(each for _, each in measured)
    return agent.policy, steps if returned > best - MARGIN else None, top


def invalid_actions(policy, steps: int, seed: int, count: int = 1000) -> int:
    """Return how many invalid actions a policy takes in many games at once."""
    from tfpg.envs.probes import Divisors

    env, rng = Divisors(), np.random.default_rng(seed)
    table = np.stack([env.valid(number) for number in range(env.largest + 1)])
    numbers, invalid = rng.integers(2, env.largest + 1, count), 0
    for step in range(steps // count):
        masks = table[numbers]
        noise = policy.head.noise(rng, count) if step % 2 else None
        seen = {"observation": numbers, "action_mask": masks}
        actions = policy.actor()(seen, noise).env_actions
        invalid += int((masks[np.arange(count), actions] == 0).sum())
        numbers = np.maximum(numbers - actions - 1, 1)
        numbers = np.where(numbers == 1, rng.integers(2, env.largest + 1, count), numbers)
    return invalid


def main() -> None:
    algorithms = ["ppo", "reinforce", "a2c", "dqn", "c51", "qrdqn", "rainbow"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=algorithms, default=algorithms)
    parser.add_argument("--env-steps", type=int, default=100_000, help="at most; with masks, half")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| | steps with masks | steps without | best return without | invalid actions |")
    print("|---|---|---|---|---|", flush=True)
    for algorithm in args.only:
        policy, steps, _ = train(algorithm, True, args.env_steps // 2, args.seed)
        invalid = invalid_actions(policy, 1_000_000, args.seed)
        _, without, top = train(algorithm, False, args.env_steps, args.seed)
        shown = [f"{x:,}" if x else "not solved" for x in (steps, without)]
        row = algorithm, *shown, f"{top:.2f}", f"{invalid} of 1,000,000"
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
