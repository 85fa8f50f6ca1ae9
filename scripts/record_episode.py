"""Record a saved Keras model: one or more episodes to MP4, GIF or both.

python scripts/record_episode.py runs/script/best.keras CartPole-v1 cartpole.mp4 cartpole.gif
"""

import argparse

import tfpg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help="a .keras file, from tfpg or plain Keras")
parser.add_argument("env", help="a Gymnasium id")
parser.add_argument("out", nargs="+", help="files to write: .mp4, .webm, .gif or .png")
parser.add_argument("--seed", type=int, default=7)
parser.add_argument("--episodes", type=int, default=1)
parser.add_argument("--stochastic", action="store_true", help="sample the actions")
args = parser.parse_args()

video = tfpg.record(
    tfpg.load_model(args.model),
    args.env,
    args.out,
    episodes=args.episodes,
    seed=args.seed,
    deterministic=not args.stochastic,
)
for path in video.paths:
    print(f"{path}: {video.frames} frames, returns {video.episode_returns}")
