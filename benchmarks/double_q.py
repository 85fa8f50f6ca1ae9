"""How far plain and Double DQN overestimate on a chain whose true values are known: all are 0.

Every action leads on to the next state and is paid by noise of mean 0 (`tfpg.envs.probes`,
`NoisyChain`), so that every value is 0. A small replay keeps the estimates noisy. The best of ten
noisy estimates is above 0, and a plain target takes it for the value: the error grows from state to
state. A Double target values by one network what the other chose. "Mean Q" is the mean over states
and actions, not over the best actions, whose maximum would be biased itself.

    python benchmarks/double_q.py
    python benchmarks/double_q.py --seeds 2 --updates 4096 --figure runs/double_q.png
"""

import argparse
from pathlib import Path

import numpy as np

ITERATION = 256
NAMES = {False: "DQN", True: "Double DQN"}


def mean_q(double: bool, seed: int, updates: int) -> np.ndarray:
    """Trains one agent: mean Q of each state ``[K, S]``, after every 256 updates."""
    import keras

    import tfpg
    from tfpg.envs.probes import NoisyChain

    states, _ = NoisyChain().values(gamma=0.99)
    model = tfpg.networks.mlp(NoisyChain, hidden=(32,), activation="tanh", seed=seed)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    agent = tfpg.DQN(
        model,
        gamma=0.99,
        double=double,
        loss="mse",
        capacity=256,  # 5 rewards of each action in a state: estimates stay noisy
        batch_size=32,
        learn_period=64,
        updates_per_learn=64,
        target_update_period=512,  # the replay is another one by then, and so is its noise
        epsilon=1.0,
        learning_starts=256,
        steps_per_iteration=ITERATION,
    )
    measured = []

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            measured.append(np.asarray(model(states)).mean(axis=1))

    agent.fit(NoisyChain, updates // ITERATION, [Measure()], seed=seed, verbose=0)
    return np.array(measured)


def draw(curves: dict[bool, np.ndarray], path: Path) -> None:
    """Mean Q over the updates, and of each state; ``curves`` are ``[seeds, K, S]``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for double, color in ((False, "tab:red"), (True, "tab:blue")):
        data = curves[double]
        counts = ITERATION * np.arange(1, data.shape[1] + 1)
        over_time = data.mean(axis=2)
        left.plot(counts, over_time.mean(axis=0), color=color, label=NAMES[double])
        left.fill_between(
            counts, over_time.min(axis=0), over_time.max(axis=0), color=color, alpha=0.2, lw=0
        )
        per_state = data[:, data.shape[1] // 2 :].mean(axis=1)
        middle = per_state.mean(axis=0)
        ends = np.stack([middle - per_state.min(axis=0), per_state.max(axis=0) - middle])
        names = np.arange(per_state.shape[1])
        right.errorbar(names, middle, ends, color=color, marker="o", capsize=4)
    for axes in (left, right):
        axes.axhline(0.0, color="black", ls="--", lw=1, label="True value")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    left.set(xlabel="Updates", ylabel="Mean Q")
    left.locator_params(axis="x", nbins=5)
    right.set(xlabel="State of the chain", xticks=names)
    right.set_title("Mean of the second half", fontsize="medium")
    left.set_title("Mean over states and actions", fontsize="medium")
    left.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8192, help="of each agent")
    parser.add_argument("--figure", type=Path, default=Path("runs/double_q.png"))
    args = parser.parse_args()
    if args.updates < 2 * ITERATION:
        parser.error(f"--updates must be at least {2 * ITERATION}.")

    print("Mean Q of the second half of the updates; the true value is 0.")
    print("  seed         DQN   Double DQN")
    curves = {False: [], True: []}
    for seed in range(args.seeds):
        for double, found in curves.items():
            found.append(mean_q(double, seed, args.updates))
        plain, other = (found[-1][len(found[-1]) // 2 :].mean() for found in curves.values())
        print(f"{seed:6}{plain:12.3f}{other:13.3f}", flush=True)
    stacked = {double: np.stack(found) for double, found in curves.items()}
    means = [x[:, x.shape[1] // 2 :].mean(axis=(1, 2)) for x in stacked.values()]
    print(f"  mean{means[0].mean():12.3f}{means[1].mean():13.3f}")
    spread = [x.std() for x in means]
    print(f"   std{spread[0]:12.3f}{spread[1]:13.3f}")
    draw(stacked, args.figure)
    print(args.figure)


if __name__ == "__main__":
    main()
