"""The recipes for clusters, as far as they can be checked on one machine."""

import os
import re
import shlex
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tfpg.cli.train_command import parse

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "scripts/cluster"

yaml = pytest.importorskip("yaml", reason="needs PyYAML, which comes with Ray")


def commands_in(text):
    """The training commands in comments and values."""
    return re.findall(r"tfpg train [^'\n\"]+", text)


def test_the_commands_are_valid():
    texts = [path.read_text() for path in RECIPES.iterdir() if path.name != "slurm.sh"]
    found = [command for text in texts for command in commands_in(text)]
    assert len(found) >= 3
    for command in found:
        parse(command)


def test_the_image_installs_extras_that_exist():
    lines = (RECIPES / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    instructions = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert {*instructions} <= {"FROM", "RUN", "COPY", "USER", "WORKDIR"}
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    (extras,) = re.findall(r"/opt/tfpg\[([\w,]+)\]", "\n".join(lines))
    assert {*extras.split(",")} <= {*config["options.extras_require"]}


def test_ray_accepts_the_cluster_file():
    pytest.importorskip("ray", reason="needs Ray: pip install 'tfpg[ray]'")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((RECIPES / "ray.yaml").read_text()))
    validate_config(config)
    assert "--include-dashboard=false" in config["head_start_ray_commands"][-1]


def test_the_manifest_has_a_token_and_as_many_cpus_as_workers():
    volume, job = yaml.safe_load_all((RECIPES / "kuberay.yaml").read_text())
    spec = job["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert f"ray=={spec['rayVersion']}" in (ROOT / "requirements.txt").read_text().split()
    (group,) = spec["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    cpus = group["replicas"] * int(worker["resources"]["limits"]["cpu"])
    command = parse(shlex.join(shlex.split(job["spec"]["entrypoint"])))
    assert command.ray_workers == cpus
    head = spec["headGroupSpec"]["template"]["spec"]
    (claim,) = head["volumes"]
    assert claim["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
    (mounted,) = head["containers"][0]["volumeMounts"]
    assert str(command.run).startswith(mounted["mountPath"])


def test_the_slurm_script_starts_ray_on_all_nodes_and_trains(tmp_path):
    """With stand-ins for Slurm and Ray, which would need several computers."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text('PATH="$PWD:$PATH"\n')
    programs = {
        "hostname": "echo 10.0.0.7 172.17.0.1",
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "ray": '[ "$1" = health-check ] || echo "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $@" >> started',
        "tfpg": 'until grep -qs -e --address started; do sleep 0.1; done; echo "tfpg $@"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(
        [RECIPES / "slurm.sh", "ppo", "Acrobot-v1", "--num-envs", "64"],
        cwd=tmp_path,
        env={**os.environ, **slurm},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    head = "--head --node-ip-address=10.0.0.7 --port=6379 --num-cpus=6 --include-dashboard=false"
    assert (tmp_path / "started").read_text().splitlines() == [
        f"token 64 start --block {head}",
        "token 64 start --block --address=10.0.0.7:6379 --num-cpus=8",
    ]
    training = parse(done.stdout)
    assert (training.ray_workers, training.ray_address) == (14, "10.0.0.7:6379")
