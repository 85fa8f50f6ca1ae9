#!/usr/bin/env bash
# Makes the GIFs in videos/ again: trains what is not yet in runs/videos, and records it.
#   ./scripts/videos.sh        CartPole and LunarLander, 15 minutes on 2 CPU cores
#   ./scripts/videos.sh pong   Pong too, another hour
set -eu
. "$(dirname "$0")/setup.sh" --editable '.[atari,box2d]'
runs=runs/videos

[ -e $runs/cartpole ] ||
    tfpg train reinforce CartPole-v1 --seed 1 --run $runs/cartpole --no-video --snapshots 0 6 12 38
[ -e $runs/lander ] || tfpg train ppo LunarLander-v3 --seed 1 --run $runs/lander --no-video

tfpg record $runs/cartpole videos/reinforce-cartpole.gif --seed 7 \
    --overlay caption action bars --scale 0.7 --speed 2 --max-seconds 5
tfpg record $runs/cartpole videos/cartpole-learning.gif --seed 7 --snapshots --grid \
    --scale 0.5 --crop 0 100 600 400 --speed 2 --max-seconds 5
tfpg record $runs/lander videos/ppo-lander.gif --seed 7 --episodes 20 --rank \
    --scale 0.5 --speed 2 --max-seconds 6

if [ "${1:-}" = pong ]; then
    [ -e $runs/pong ] ||
        tfpg train dqn ALE/Pong-v5 --seed 1 --run $runs/pong --no-video --env-steps 300000 \
            --n-step 3 --dueling --epsilon 1 .02 50000 --learning-starts 5000 --capacity 100000 \
            --learning-rate 2.5e-4 --target-update-period 500
    tfpg record $runs/pong videos/dqn-pong.gif --seed 7 --overlay caption bars saliency \
        --stochastic --speed 2 --max-seconds 5
fi
ls -l videos/*.gif
