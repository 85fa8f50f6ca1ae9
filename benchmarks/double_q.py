"""Measure how far DQN and Double DQN overestimate on a chain whose true values are all 0.

Every action leads to the next state, and its reward is noise of mean 0
(`tfpg.envs.probes.NoisyChain`), so every value is 0. A small replay buffer keeps the estimates
noisy. The largest of ten noisy estimates is above 0, and DQN's target uses it as the value, so the
error grows from state to state. Double DQN chooses an action with one network, and takes its value
from the other. "Mean Q" is the mean over states and actions; a mean of the largest values would
itself be biased.

    python benchmarks/double_q.py
    python benchmarks/double_q.py --seeds 2 --updates 4096 --figure runs/double_q.png
"""

import argparse
from pathlib import Path

import numpy as np

PERIOD = 256  # updates between measurements
NAMES = {False: "DQN", True: "Double DQN"}


def train(double: bool, seed: int, updates: int) -> np.ndarray:
    """Train an agent, and return the mean Q of each state ``[K, S]`` after every 256 updates."""
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
        capacity=256,  # about five rewards per state and action, so estimates stay noisy
        n_step=1,
        batch_size=32,
        learn_period=64,
        updates_per_learn=64,
        target_update_period=512,  # by then all of the replay, and its noise, is new
        epsilon=1.0,
        learning_starts=256,
        steps_per_iteration=PERIOD,
    )
    measured = []

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            measured.append(np.asarray(model(states)).mean(axis=1))

    agent.fit(NoisyChain, updates // PERIOD, [Measure()], seed=seed, verbose=0)
    return np.array(measured)


def second_half(curves: np.ndarray) -> np.ndarray:
    """Return the later half of the measurements ``[..., K, S]``."""
    return curves[..., curves.shape[-2] // 2 :, :]


def draw(curves: dict[bool, np.ndarray], path: Path) -> None:
    """Plot mean Q over the updates, and of each state. Each of ``curves`` is ``[seeds, K, S]``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for double, color in ((False, "tab:red"), (True, "tab:blue")):
        data = curves[double]
        updates = PERIOD * np.arange(1, data.shape[1] + 1)
        over_time = data.mean(axis=2)
        left.plot(updates, over_time.mean(axis=0), color=color, label=NAMES[double])
        left.fill_between(
            updates, over_time.min(axis=0), over_time.max(axis=0), color=color, alpha=0.2, lw=0
        )
        per_state = second_half(data).mean(axis=1)
        means = per_state.mean(axis=0)
        ranges = np.stack([means - per_state.min(axis=0), per_state.max(axis=0) - means])
        states = np.arange(per_state.shape[1])
        right.errorbar(states, means, ranges, color=color, marker="o", capsize=4)
    for axes in (left, right):
        axes.axhline(0.0, color="black", ls="--", lw=1, label="True value")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    left.set(xlabel="Updates", ylabel="Mean Q")
    left.locator_params(axis="x", nbins=5)
    right.set(xlabel="State of the chain", xticks=states)
    right.set_title("Mean of the second half", fontsize="medium")
    left.set_title("Mean over states and actions", fontsize="medium")
    left.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--updates", type=int, default=8192, help="updates of each agent")
    parser.add_argument("--figure", type=Path, default=Path("runs/double_q.png"))
    args = parser.parse_args()
    if args.updates < 2 * PERIOD:
        parser.error(f"--updates must be at least {2 * PERIOD}.")

    print("Mean Q over the second half of the updates; the true value is 0.")
    print("  seed         DQN   Double DQN")
    results = {False: [], True: []}
    for seed in range(args.seeds):
        for double in results:
            results[double].append(train(double, seed, args.updates))
        plain, double = (second_half(curves[-1]).mean() for curves in results.values())
        print(f"{seed:6}{plain:12.3f}{double:13.3f}", flush=True)
    curves = {double: np.stack(each) for double, each in results.items()}
    means = [second_half(each).mean(axis=(1, 2)) for each in curves.values()]
    for name, statistic in (("mean", np.mean), ("std", np.std)):
        plain, double = map(statistic, means)
        print(f"{name:>6}{plain:12.3f}{double:13.3f}")
    draw(curves, args.figure)
    print(args.figure)


if __name__ == "__main__":
    main()
