#!/usr/bin/env bash
# Trains on all nodes of a Slurm job, which share this folder and its .venv:
#     sbatch --nodes=4 --cpus-per-task=32 scripts/cluster/slurm.sh ppo HalfCheetah-v5 --num-envs 512
# If the job ends before the training, the same command resumes it.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
set -eu
. .venv/bin/activate
RAY_AUTH_TOKEN="$(head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1)"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
workers=$((SLURM_NNODES * SLURM_CPUS_PER_TASK - 2)) # two cores learn
exec srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_NNODES" -- \
    tfpg train "$@" --ray-address auto --ray-workers "$workers"
