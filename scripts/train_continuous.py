"""Train PPO on Pendulum: continuous actions, a value function, learning-rate decay, a video.

python scripts/train_continuous.py --env-steps 300000 --seed 1 --out runs/pendulum
"""

import argparse
from pathlib import Path

import keras

import tfpg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="Pendulum-v1")
parser.add_argument("--env-steps", type=int, default=300_000)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", type=Path, default=Path("runs/pendulum"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

num_envs, num_steps, epochs, minibatches = 16, 128, 10, 16
iterations = max(1, args.env_steps // (num_envs * num_steps))
rate = keras.optimizers.schedules.PolynomialDecay(1e-3, iterations * epochs * minibatches, 0.0)
model = tfpg.networks.actor_critic(args.env, hidden=(64, 64), seed=args.seed)
model.compile(optimizer=keras.optimizers.Adam(rate, epsilon=1e-5, global_clipnorm=0.5))

agent = tfpg.PPO(
    model,
    gamma=0.95,
    num_envs=num_envs,
    num_steps=num_steps,
    epochs=epochs,
    minibatches=minibatches,
    reward_scale="auto",
)
agent.fit(args.env, iterations, seed=args.seed)
result = agent.evaluate(args.env, episodes=100, seed=7)
print(f"{agent.save(args.out / 'model.keras')}: {result['episode_return']:.1f} over 100 episodes")
print(tfpg.record(agent, args.env, args.out / "video.mp4", seed=7).path)
