"""Test tfpg with the versions of Python and TensorFlow that it supports, outside of this clone.

python scripts/versions.py python3.11 python3.12 python3.13

For each version of TensorFlow, and for the lowest versions in setup.cfg, this makes a virtual
environment, installs the wheel and its dependencies with pip, and trains, evaluates, saves, resumes
and records. It needs Xvfb, and 5 GB in the temporary folder ($TMPDIR). A version of TensorFlow that
has no wheel for a version of Python is left out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
TENSORFLOW = ["2.19", "2.20", "2.21"]
SHOWN = ["python", "tensorflow", "keras", "numpy", "gymnasium"]

COMMANDS = """
doctor
train reinforce CartPole-v1 --iterations 2 --run runs/reinforce --seed 1
train a2c CartPole-v1 --iterations 2 --run runs/a2c --seed 1 --no-video
train ppo CartPole-v1 --iterations 1 --run runs/ppo --seed 1 --no-video
train dqn CartPole-v1 --env-steps 1500 --run runs/dqn --seed 1 --no-video
evaluate runs/ppo --episodes 3 --seed 1
record runs/dqn dqn.gif --seed 1 --max-steps 20
evaluate zoo:ppo/Acrobot-v1 --episodes 3 --seed 1
evaluate zoo:dqn/CartPole-v1 --episodes 3 --seed 1
"""

PROGRAM = """
import gymnasium, numpy as np, tfpg

assert "site-packages" in tfpg.__file__, tfpg.__file__
ENV = "CartPole-v1"

def make(agent_class):
    has_value = agent_class in (tfpg.A2C, tfpg.PPO)
    network = tfpg.networks.actor_critic if has_value else tfpg.networks.mlp
    return agent_class(network(ENV, hidden=(8,), seed=1))

for agent_class in (tfpg.Reinforce, tfpg.A2C, tfpg.PPO, tfpg.DQN):
    agent = make(agent_class)
    agent.fit(ENV, iterations=2, seed=1, verbose=0)
    before = agent.evaluate(ENV, episodes=3, seed=2)["episode_returns"]
    agent.save("agent.keras")
    loaded = tfpg.load_model("agent.keras")
    after = tfpg.evaluate(loaded, ENV, episodes=3, seed=2)["episode_returns"]
    assert np.array_equal(before, after), (agent_class, before, after)

whole = make(tfpg.Reinforce)
whole.fit(ENV, iterations=3, seed=1, verbose=0)
for iterations in (1, 3):
    resumed = make(tfpg.Reinforce)
    resumed.fit(ENV, iterations=iterations, seed=1, verbose=0, checkpoints="checkpoints")
for one, other in zip(whole.model.get_weights(), resumed.model.get_weights()):
    assert np.array_equal(one, other), "a resumed run has other weights"

def window():
    return gymnasium.make(ENV, render_mode="human")

tfpg.record(loaded, window, "window.mp4", seed=1, max_steps=20)
"""


def run(*command, cwd=None):
    """Run a command without the paths of this environment, and return its standard output."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DISPLAY")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-25:]
        raise RuntimeError("\n".join([f"{' '.join(map(str, command))[:200]} failed:", *lines]))
    return done.stdout


def make_venv(folder, python):
    """Make a virtual environment, and return its folder of programs."""
    run(python, "-m", "venv", "--clear", folder)
    return folder / "bin"


def build_wheel(folder):
    """Build the wheel as it would be published: from the sdist."""
    programs = make_venv(folder / "venv", sys.executable)
    run(programs / "pip", "install", "build")
    run(programs / "python", "-m", "build", "--outdir", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def lowest_versions():
    """Return pip's constraints to the lowest versions that setup.cfg allows."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    bounds = re.findall(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", setup["options"]["install_requires"])
    return "".join(f"{name}=={version}\n" for name, version in bounds)


def use(programs, folder):
    """Use tfpg in an empty folder, and return the versions of the packages."""
    folder.mkdir()
    for line in COMMANDS.strip().splitlines():
        run(programs / "tfpg", *line.split(), cwd=folder)
    run(programs / "python", "-c", PROGRAM, cwd=folder)
    for name in ("dqn.gif", "window.mp4", "runs/reinforce/video.mp4"):
        assert (folder / name).stat().st_size > 1000, name
    return json.loads(run(programs / "tfpg", "doctor", "--json"))["versions"]


def test(wheel, python, constraints):
    """Test a wheel, and return a row of the table: versions, the result, and seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.monotonic()
        programs = make_venv(folder / "venv", python)
        (folder / "constraints.txt").write_text(constraints)
        pip = [programs / "pip", "install", "--only-binary", ":all:", "--no-compile"]
        pip += ["--constraint", folder / "constraints.txt"]
        try:
            run(*pip, "--no-deps", "--dry-run", "tensorflow")
        except RuntimeError as error:
            if "No matching distribution" not in str(error):
                raise
            return None
        run(*pip, wheel)
        installed = time.monotonic()
        versions = use(programs, folder / "work")
        seconds = f"{installed - start:.0f} + {time.monotonic() - installed:.0f} s"
    return [*(versions[each] for each in SHOWN), "works", seconds]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", nargs="*", default=[sys.executable], help="Python interpreters")
    versions = [*TENSORFLOW, "lowest"]
    parser.add_argument("--tensorflow", nargs="+", default=versions, choices=versions)
    args = parser.parse_args()

    def show(cells):
        print("".join(f"{each:12}" for each in cells), flush=True)

    failed = False
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        show([*SHOWN, "result", "seconds: installation + use"])
        for python in args.python:
            for version in args.tensorflow:
                lowest = version == "lowest"
                constraints = lowest_versions() if lowest else f"tensorflow=={version}.*\n"
                try:
                    row = test(wheel, python, constraints)
                except Exception as error:
                    failed = True
                    row = [Path(python).name, version, "", "", "", "FAILED", f"\n{error}"]
                show(row or [Path(python).name, version, "", "", "", "no wheel"])
    return failed


if __name__ == "__main__":
    sys.exit(main())
