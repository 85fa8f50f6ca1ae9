#!/usr/bin/env bash
# Train on all nodes of a Slurm job. The nodes must share this folder and its .venv:
#     sbatch --nodes=4 --cpus-per-task=32 scripts/cluster/slurm.sh ppo HalfCheetah-v5 --num-envs 512
# If the job ends before training finishes, run the same command again to resume.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@120
set -eu
. .venv/bin/activate
RAY_AUTH_TOKEN="$(head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1)"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
HEAD_IP="$(hostname -I | cut -d ' ' -f 1)" # this script runs on the first node
export HEAD_IP RAY_ADDRESS="$HEAD_IP:6379"
on_head=$((SLURM_CPUS_PER_TASK - 2)) # leave two cores for learning
export on_head

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
if [ "$SLURM_NODEID" = 0 ]; then
    exec ray start --block --head --node-ip-address="$HEAD_IP" --port=6379 --num-cpus="$on_head" \
        --include-dashboard=false
fi
for _ in {1..60}; do ! ray health-check 2>/dev/null || break; sleep 1; done
exec ray start --block --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK"' &
for _ in {1..60}; do ! ray health-check 2>/dev/null || break; sleep 1; done
exec tfpg train "$@" --ray-address "$RAY_ADDRESS" \
    --ray-workers $((SLURM_NNODES * SLURM_CPUS_PER_TASK - 2))
