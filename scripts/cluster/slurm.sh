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
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)" # where this script runs
HEAD_IP="$(getent ahostsv4 "$head" | head -n 1 | cut -d ' ' -f 1)"
export HEAD_IP RAY_ADDRESS="$HEAD_IP:6379"
workers=$((SLURM_NNODES * SLURM_CPUS_PER_TASK - 2)) # leave two cores for learning

srun bash -c 'if [ "$SLURM_NODEID" = 0 ]; then
    exec ray start --block --head --node-ip-address="$HEAD_IP" --port=6379 --include-dashboard=false
fi
until ray health-check 2>/dev/null; do sleep 1; done
exec ray start --block --address "$RAY_ADDRESS"' &
until ray health-check 2>/dev/null; do sleep 1; done
exec tfpg train "$@" --ray-address "$RAY_ADDRESS" --ray-workers "$workers"
