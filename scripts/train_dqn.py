"""Train a Double, dueling DQN on CartPole, with a decaying epsilon and a figure of its progress.

python scripts/train_dqn.py --env-steps 50000 --seed 1 --out runs/dqn
"""

import argparse
from pathlib import Path

import keras

import tfpg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="CartPole-v1")
parser.add_argument("--env-steps", type=int, default=50_000)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", type=Path, default=Path("runs/dqn"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

rate = keras.optimizers.schedules.PolynomialDecay(2e-3, max(1, args.env_steps // 2), 0.0)
model = tfpg.networks.dueling(args.env, hidden=(128, 128), seed=args.seed)
model.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=10.0))

agent = tfpg.DQN(
    model,
    double=True,
    n_step=10,
    batch_size=128,
    learn_period=64,
    updates_per_learn=32,
    tau=0.01,
    epsilon=tfpg.schedules.linear(1.0, 0.02, 8000),
)
look = tfpg.callbacks.Diagnostics(args.out / "diagnostics.png", args.env, every=50)
keep = tfpg.callbacks.KeepBest(args.out / "best.keras")
agent.fit(args.env, max(1, args.env_steps // 1024), callbacks=[look, keep], seed=args.seed)

result = tfpg.evaluate(tfpg.load_model(keep.path), args.env, episodes=100, seed=7)
print(f"{keep.path}: {result['episode_return']:.1f} over {result['episodes']} greedy episodes")
