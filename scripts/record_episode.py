"""Films a saved Keras model: one episode to MP4, GIF or both.

python scripts/record_episode.py runs/script/best.keras CartPole-v1 film.mp4 film.gif --seed 7
"""

import argparse

import tfpg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help="a .keras file, from tfpg or plain Keras")
parser.add_argument("env", help="a Gymnasium id")
parser.add_argument("out", nargs="+", help=".mp4 or .gif")
parser.add_argument("--seed", type=int, default=7)
parser.add_argument("--episodes", type=int, default=1)
parser.add_argument("--stochastic", action="store_true", help="sample the actions")
args = parser.parse_args()

model = tfpg.load_model(args.model)
for path in args.out:
    film = tfpg.record(
        model,
        args.env,
        path,
        episodes=args.episodes,
        seed=args.seed,
        deterministic=not args.stochastic,
    )
    print(f"{film.path}: {film.frames} frames, returns {film.episode_returns}")
