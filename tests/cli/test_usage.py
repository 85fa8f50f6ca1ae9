"""Help and usage errors: what the command line accepts, and what it says about anything else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tfpg
from tfpg.agents.registry import algorithm_names
from tfpg.cli.main import main
from tfpg.cli.train_command import parse
from tfpg.core.options import options_of

AGENTS = {"reinforce": tfpg.Reinforce, "a2c": tfpg.A2C, "ppo": tfpg.PPO, "dqn": tfpg.DQN}

TRAIN = ["train", "ppo", "CartPole-v1"]
DQN = ["train", "dqn", "CartPole-v1"]
RECORD = ["record", "run", "out.mp4"]

CASES = [
    (["--help"], 0, "verify-resume  Kill a run, resume it, and compare the results."),
    (["-h"], 0, "Usage: tfpg [OPTIONS] COMMAND"),
    (["train", "ppo", "-h"], 0, "Usage: tfpg train ppo [OPTIONS] ENV"),
    (["--version"], 0, f"tfpg {tfpg.__version__}\n"),
    (["train", "--help"], 0, "ppo           Proximal policy optimization"),
    (["train", "ppo", "--help"], 0, "Usage: tfpg train ppo [OPTIONS] ENV"),
    (["resume", "--help"], 0, "--verbose [0|1|2]"),
    (["evaluate", "--help"], 0, "--episodes N  Number of episodes. [default: 100]"),
    (["record", "--help"], 0, "Usage: tfpg record [OPTIONS] RUN_OR_MODEL OUT..."),
    (["check", "--help"], 0, "--seconds X"),
    (["verify-resume", "--help"], 0, "Usage: tfpg verify-resume [OPTIONS] ALGORITHM ENV"),
    (["plot", "--help"], 0, "Usage: tfpg plot [OPTIONS] RUN..."),
    (["compare", "--help"], 0, "Usage: tfpg compare [OPTIONS] RUN..."),
    (["bench", "--help"], 0, "Usage: tfpg bench [OPTIONS] ALGORITHM ENV"),
    (["bench", "sarsa", "CartPole-v1"], 1, "Unknown algorithm 'sarsa'"),
    (["doctor", "--help"], 0, "--json"),
    ([], 2, "Usage: tfpg [OPTIONS] COMMAND"),
    (["train"], 2, "Usage: tfpg train ALGORITHM ENV [OPTIONS]"),
    (["fly"], 2, "Unknown command 'fly'. Available: train, sweep, tune, resume, evaluate"),
    (["evalute", "run"], 2, "Unknown command 'evalute'. Did you mean 'evaluate'?"),
    (["train", "dqm", "CartPole-v1"], 2, "Unknown algorithm 'dqm'. Did you mean 'dqn'?"),
    (["train", "sarsa", "CartPole-v1"], 2, "Available: reinforce, a2c, ppo, dqn"),
    (["train", "json:loads", "CartPole-v1"], 2, "must be a subclass of tfpg.Agent"),
    (["train", "nowhere:Agent", "CartPole-v1"], 2, "No module named 'nowhere'"),
    (["train", "ppo"], 2, "Missing argument 'ENV'"),
    ([*TRAIN, "Acrobot-v1"], 2, "unexpected extra argument (Acrobot-v1)"),
    ([*TRAIN, "--learing-rate", "1"], 2, "'--learing-rate'. Did you mean '--learning-rate'?"),
    ([*TRAIN, "--learing-rate=1"], 2, "'--learing-rate'. Did you mean '--learning-rate'?"),
    (["resume", "run", "--alow-version-skew"], 2, "Did you mean '--allow-version-skew'?"),
    ([*TRAIN, "--double"], 2, "No such option '--double'"),
    ([*DQN, "--entropy-coef", "1"], 2, "No such option '--entropy-coef'"),
    ([*DQN, "--log-std", "1"], 2, "No such option '--log-std'"),
    ([*TRAIN, "--gamma"], 2, "Option '--gamma' requires an argument"),
    ([*DQN, "--hidden", "--double"], 2, "Option '--hidden' requires an argument"),
    ([*TRAIN, "--gamma", "2"], 2, "--gamma must be a number from 0 to 1, got 2."),
    ([*TRAIN, "--gamma", "high"], 2, "--gamma must be a number from 0 to 1, got 'high'."),
    ([*TRAIN, "--epochs", "1.5"], 2, "--epochs must be an integer of at least 1, got '1.5'."),
    ([*TRAIN, "--iterations", "0"], 2, "--iterations must be an integer of at least 1"),
    ([*TRAIN, "--seed", "-1"], 2, "--seed must be an integer of at least 0"),
    ([*TRAIN, "--standardize", "all"], 2, "--standardize must be 'batch' or 'none', got 'all'"),
    ([*TRAIN, "--jit-compile", "None"], 2, "must be 'on', 'off', or 'auto', got 'None'"),
    ([*TRAIN, "--hidden", "64", "0"], 2, "--hidden must be an integer of at least 1, got 0."),
    ([*TRAIN, "--stop-at", "nan"], 2, "--stop-at must be a number"),
    ([*DQN, "--epsilon", "2"], 2, "--epsilon must be a number from 0 to 1 or a schedule"),
    ([*DQN, "--epsilon", "1", "0.1"], 2, "--epsilon must be one number, or START END STEPS"),
    ([*DQN, "--epsilon", "1", "0.1", "0"], 2, "START END STEPS with STEPS above 0"),
    ([*TRAIN, "--model", "a.keras", "--hidden", "8"], 2, "--hidden is for new networks"),
    ([*DQN, "--model", "a.keras", "--no-dueling"], 2, "--dueling is for new networks"),
    ([*DQN, "--model", "a.keras", "--noisy"], 2, "--noisy is for new networks"),
    ([*DQN, "--atoms", "51"], 2, "No such option '--atoms'"),
    ([*TRAIN, "--noisy"], 2, "No such option '--noisy'"),
    ([*TRAIN, "--worker-timeout", "1"], 2, "--worker-timeout needs --workers"),
    ([*TRAIN, "--ray-address", "auto"], 2, "--ray-address needs --ray-workers"),
    ([*TRAIN, "--workers", "2", "--ray-workers", "2"], 2, "Use either --workers or --ray-workers"),
    (["evaluate", "run", "--episodes", "0"], 2, "--episodes must be an integer of at least 1"),
    ([*RECORD, "--overlay", "bras"], 2, "--overlay must be 'caption', 'action', 'bars'"),
    ([*RECORD, "--overlay", "bars", "none"], 2, "--overlay none cannot be combined"),
    ([*RECORD, "--speed", "0"], 2, "--speed must be a number above 0, got 0."),
    ([*RECORD, "--rank"], 2, "--rank needs several episodes"),
    ([*RECORD, "--versus", "other", "--snapshots"], 2, "cannot be combined"),
    ([*RECORD, "--crop", "1", "2"], 2, "--crop must be four numbers, got 2."),
    (["record", "run"], 2, "Missing argument 'OUT...'"),
    (["check", "CartPole-v1", "--steps", "0"], 2, "--steps must be an integer of at least 1"),
    (["evaluate", "nothing"], 1, "No run or model at 'nothing'"),
    (["evaluate", "."], 1, "'.' is not a run: it has no config.json"),
    (["evaluate", "broken.keras", "--env", "CartPole-v1"], 1, "broken.keras"),
    (["evaluate", "broken.keras"], 1, "The environment of 'broken.keras' is not known"),
    (["train", "ppo", "CartPol-v1"], 1, "Did you mean CartPole-v1, CartPole-v0, or"),
    ([*TRAIN, "--run", "."], 1, "'.' is not a run: it has no config.json. Choose another folder"),
    ([*TRAIN, "--model", "no.keras"], 1, "No run or model at 'no.keras'"),
    (["record", "run", "out.avi"], 1, "ending in .mp4, .gif, .webm, or .png"),
    (["record", "run", "no/out.mp4"], 1, "mkdir -p no"),
    (["plot"], 2, "Missing argument 'RUN...'"),
    (["plot", "nothing"], 1, "No run at 'nothing'"),
    (["plot", ".", "--out", "curves.gif"], 1, "A figure must end in .png, .svg, .pdf, or .jpg"),
    (["compare", "."], 1, "'.' is not a run: it has no config.json."),
    (["resume", "nothing"], 1, "No run at 'nothing'"),
    (["verify-resume", "sarsa", "CartPole-v1"], 1, "Unknown algorithm 'sarsa'"),
]

# Runs all cases in one process, which must not import TensorFlow.
SCRIPT = """
import contextlib, io, json, sys
from tfpg.cli.main import main
from tfpg.cli.train_command import parse

for args in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    imported = sorted({"tensorflow", "keras"} & set(sys.modules))
    print(json.dumps([code, out.getvalue(), err.getvalue(), imported]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit code, output, errors and imported packages by case."""
    folder = tmp_path_factory.mktemp("usage")
    (folder / "broken.keras").write_bytes(b"PK nothing")
    cases = [args for args, *_ in CASES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert [path.name for path in folder.iterdir()] == ["broken.keras"]
    lines = map(json.loads, done.stdout.splitlines())
    return {tuple(args): line for args, line in zip(cases, lines, strict=True)}


@pytest.mark.parametrize(("args", "code", "text"), CASES, ids=lambda x: str(x)[:50])
def test_help_and_mistakes_are_answered_without_tensorflow(outcomes, args, code, text):
    found, out, err, imported = outcomes[tuple(args)]
    assert (found, imported) == (code, [])
    assert text in (err if code else out)
    assert (out == "") == bool(code)
    if code and not err.startswith("Usage"):
        assert err.startswith("tfpg: error: ")
        assert len(err.splitlines()) == code  # a usage error also points at --help
    if code == 2 and not err.startswith("Usage"):
        assert err.splitlines()[1].startswith("Try 'tfpg")


def flags(agent):
    """The options of an agent as they are typed."""
    declared = options_of(agent).values()
    return {f"--{each.name.replace('_', '-')}" for each in declared if each.in_config}


def shown(capsys, *args):
    """The options in the first column of a help text."""
    assert main([*args, "--help"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("  --")]
    return {row[0] for row in rows}, out


@pytest.mark.parametrize("algorithm", AGENTS)
def test_an_algorithms_help_shows_its_own_options_only(algorithm, capsys):
    found, _ = shown(capsys, "train", algorithm)
    own = flags(AGENTS[algorithm])
    everything = {flag for agent in AGENTS.values() for flag in flags(agent)}
    assert found & everything == own
    assert {"--seed", "--env-steps", "--hidden", "--video"} <= found


@pytest.mark.parametrize("algorithm", AGENTS)
def test_help_fits_into_80_columns(algorithm, capsys):
    _, out = shown(capsys, "train", algorithm)
    assert max(map(len, out.splitlines())) <= 80


def test_help_shows_the_defaults_of_the_environment(capsys):
    _, usual = shown(capsys, "train", "ppo")
    _, tuned = shown(capsys, "train", "ppo", "CartPole-v1")
    for text in (usual, tuned):
        assert "--clip-ratio X" in text
    assert "Factor that scales the rewards" in usual
    flat = " ".join(tuned.split())
    assert "--epochs N Passes over the steps of an iteration. [default: 20]" in flat
    assert "Learning rate of Adam. [default: 0.001, decays to 0]" in flat
    assert "The defaults are those for CartPole-v1." in flat
    assert "To see them: tfpg train ppo ENV --help" in " ".join(usual.split())


def test_a_schedule_is_shown_as_it_is_typed(capsys):
    _, out = shown(capsys, "train", "dqn", "CartPole-v1")
    assert "--epsilon X|START END STEPS" in out
    assert "[default: 1.0 0.02 8000]" in " ".join(out.split())


def test_every_algorithm_is_listed(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for name in (*algorithm_names(), "module:Class"):
        assert f"\n  {name} " in out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["train", "ppo", "--help"]])
def test_help_on_a_full_disk_is_an_error_of_one_line(words):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tfpg", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("tfpg: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_installed_command_is_the_module():
    as_module, installed = (
        subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
        for command in ([sys.executable, "-m", "tfpg"], [Path(sys.executable).with_name("tfpg")])
    )
    assert as_module == installed


@pytest.mark.parametrize(
    ("stored", "given", "message"),
    [
        ("--gamma 0.5", "--gamma 0.6", "has a run with --gamma 0.5, but this one has --gamma"),
        ("--epochs 3", "", "with --epochs 3, but this one has the default --epochs"),
        (
            "",
            "--standardize none",
            "the default --standardize, but this one has --standardize none",
        ),
        ("--no-video", "", "with --no-video, but this one has the default --video"),
        ("--hidden 8 9", "--hidden 8", "with --hidden 8 9, but this one has --hidden 8."),
        ("", "--epochs 4", "tfpg resume run"),
    ],
)
def test_another_training_names_the_first_difference(stored, given, message, tmp_path):
    stored, given = (parse(f"tfpg train ppo CartPole-v1 {x}") for x in (stored, given))
    with pytest.raises(FileExistsError) as caught:
        given.check_same(stored, Path("run"))
    assert message in str(caught.value)


def test_none_is_a_value_of_agents_and_a_name_of_files():
    command = parse("tfpg train ppo CartPole-v1 --target-kl none --run none")
    assert command.agent_options == {"target_kl": None}
    assert command.run == Path("none")


def test_options_that_change_no_number_may_differ():
    stored = parse("tfpg train ppo Acrobot-v1 --epochs 3 --checkpoint-every 3 --verbose 1")
    given = parse("tfpg train ppo Acrobot-v1 --workers 2 --run elsewhere --epochs=3")
    given.check_same(stored, Path("run"))


@pytest.mark.parametrize(
    "command",
    [
        "",
        "rm -rf /",
        "tfpg train",
        "tfpg train sarsa CartPole-v1",
        "tfpg train ppo '",
        "tfpg train ppo --help",
    ],
)
def test_a_stored_command_that_is_not_a_training_is_an_error(command):
    with pytest.raises(ValueError, match="is not a valid training command"):
        parse(command)
