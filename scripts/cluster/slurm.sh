#!/usr/bin/env bash
# Train on all nodes of a Slurm job. The nodes must share this folder and its .venv:
#     sbatch --nodes=4 --cpus-per-task=32 scripts/cluster/slurm.sh ppo HalfCheetah-v5 --num-envs 512
# If the job ends before training finishes, run the same command again to resume.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
set -eu
. .venv/bin/activate
RAY_AUTH_TOKEN="$(head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1)"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
workers=$((SLURM_NNODES * SLURM_CPUS_PER_TASK - 2)) # leave two cores for learning
exec srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_NNODES" -- \
    tfpg train "$@" --ray-address auto --ray-workers "$workers"
