"""Train REINFORCE on CartPole: a Keras model, two Keras callbacks, the score of the best model.

python scripts/train_reinforce.py --iterations 50 --seed 1 --out runs/script
"""

import argparse
from pathlib import Path

import keras

import tfpg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="CartPole-v1")
parser.add_argument("--iterations", type=int, default=50)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", type=Path, default=Path("runs/script"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

model = tfpg.networks.mlp(args.env, hidden=(64, 64), activation="tanh", seed=args.seed)
model.compile(optimizer=keras.optimizers.Adam(0.01))

agent = tfpg.Reinforce(model, gamma=0.99, episodes_per_update=32)
best = args.out / "best.keras"
agent.fit(
    args.env,
    iterations=args.iterations,
    seed=args.seed,
    callbacks=[
        keras.callbacks.ModelCheckpoint(
            best, monitor="episode_return", mode="max", save_best_only=True
        ),
        keras.callbacks.CSVLogger(args.out / "metrics.csv"),
    ],
)

result = tfpg.evaluate(tfpg.load_model(best), args.env, episodes=100, seed=7)
print(f"{best}: {result['episode_return']:.1f} over {result['episodes']} greedy episodes")
