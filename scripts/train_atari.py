"""Train a DQN on an Atari game with the protocol of the papers, and record a video.

python scripts/train_atari.py --env ALE/Breakout-v5 --env-steps 2500000 --out runs/breakout
"""

import argparse
from pathlib import Path

import keras

import tfpg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="ALE/Pong-v5")
parser.add_argument("--env-steps", type=int, default=2_500_000, help="steps of 4 frames each")
parser.add_argument("--capacity", type=int, default=1_000_000, help="steps of 7 kB each")
parser.add_argument("--learning-starts", type=int, default=20_000)
parser.add_argument("--max-steps", type=int, help="limit of evaluated and recorded episodes")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", type=Path, default=Path("runs/atari"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
model = tfpg.networks.nature_cnn(args.env, seed=args.seed)
model.compile(optimizer=keras.optimizers.Adam(1e-4, epsilon=1.5e-4, global_clipnorm=10.0))
agent = tfpg.DQN(
    model,
    capacity=args.capacity,
    n_step=1,
    batch_size=32,
    updates_per_learn=8,  # every 32 steps
    target_update_period=2000,
    epsilon=tfpg.schedules.linear(1.0, 0.01, args.env_steps // 10),
    learning_starts=args.learning_starts,
    reward_clip=1.0,
    end_on_life_loss=True,
)
agent.fit(args.env, env_steps=args.env_steps, seed=args.seed)
result = tfpg.evaluate(model, args.env, episodes=5, seed=7, max_steps=args.max_steps)
print(f"{agent.save(args.out / 'model.keras')}: {result['episode_return']:.1f} over 5 episodes")
print(tfpg.record(model, args.env, args.out / "video.mp4", seed=7, max_steps=args.max_steps).path)
