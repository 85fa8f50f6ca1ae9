#!/usr/bin/env bash
# Trains on CartPole, evaluates the saved model and records it. Needs only Python 3.11 to 3.13.
set -eu
. "$(dirname "$0")/setup.sh" --editable .

started=$(date +%s)
rm -rf runs/demo
tfpg train reinforce CartPole-v1 --seed 1 --run runs/demo --no-video
tfpg evaluate runs/demo --episodes 100 --seed 7
tfpg record runs/demo videos/cartpole.mp4 --seed 7 --overlay caption bars &
tfpg record runs/demo videos/cartpole.gif --seed 7 --overlay caption bars
wait $!
echo "Done in $(($(date +%s) - started)) s, installation not counted."
echo "To use tfpg in this shell: source .venv/bin/activate, then: tfpg train ppo CartPole-v1"
