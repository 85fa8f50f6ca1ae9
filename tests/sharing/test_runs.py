"""Run folders: what they say about a model, and what is left when a training fails."""

import json
import multiprocessing
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from small import flat_weights

import tfpg
from tfpg.cli.main import main
from tfpg.core.files import locked_folder
from tfpg.results.run_config import update_config
from tfpg.sharing import runs


@pytest.fixture
def folder(tmp_path):
    config = {"env": "CartPole-v1", "head": {"positive_action": 0}, "options": {"max_steps": 30}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.keras").write_bytes(b"PK\x05\x06" + bytes(18))  # an empty archive
    return tmp_path


@pytest.mark.parametrize(
    ("env", "limit"),
    [(None, 30), ("CartPole-v1", 30), ("CartPole", 30), ("Acrobot-v1", None)],
)
def test_the_head_belongs_to_the_model_and_the_limit_to_the_environment(folder, env, limit):
    source = runs.find_model(folder, env)
    assert source.env == (env or "CartPole-v1")
    assert source.head == {"positive_action": 0}
    assert source.max_steps == limit


def test_given_options_replace_those_of_the_run(folder):
    assert runs.find_model(folder, head={"positive_action": 1}).head == {"positive_action": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"options": {"max_steps": 1, "lern_period": 1}},
            "Unknown agent option 'lern_period'. Did you mean 'learn_period'?",
        ),
        (
            {"head": {"positve_action": 1}},
            "Unknown head option 'positve_action'. Did you mean 'positive_action'?",
        ),
        ({"heads": {}}, "Unknown entry 'heads'. Did you mean 'head'?"),
        ({"qqq": 1}, "Unknown entry 'qqq'. Available: command, algorithm, env,"),
        ({"options": {}}, "it lacks 'max_steps'"),
        ({"head": 3}, "'int' object is not iterable"),
    ],
)
def test_an_unknown_entry_of_a_config_is_an_error(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="is not the config of a run") as caught:
        runs.find_model(folder)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" " * (2**20 + 1), "is larger than 1.0 MB"),
        (b"[" * 100_000, "is not valid JSON: maximum recursion depth"),
        (b"\x80\x04N.", "is not valid JSON: 'utf-8' codec"),
        (b"[]", "a list"),
        (b'{"env": 1, "env": 2}', "is not valid JSON: a key occurs twice"),
    ],
)
def test_a_config_is_a_json_object_of_limited_size(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        runs.find_model(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_a_run_that_fails_before_its_first_iteration_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "config.json").write_text("{}")
        raise RuntimeError("the reason")
    assert not list(tmp_path.iterdir())


def test_a_run_with_an_iteration_keeps_its_folder(tmp_path):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a"):
        (tmp_path / "a" / "metrics.csv").write_text("epoch,loss\n0,1.0\n")
        raise RuntimeError("the reason")
    assert (tmp_path / "a" / "metrics.csv").exists()


def test_everything_that_a_failed_run_wrote_is_removed(tmp_path):
    names = ["config.json", "start.keras", "start.critic.keras", "model.critic.keras"]
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a"):
        for name in names:
            (tmp_path / "a" / name).write_text("{}")
        raise RuntimeError("the reason")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["others.txt", "a/others.txt", "a/b/others.txt"])
def test_files_of_other_programs_stay(tmp_path, name):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a" / "b"):
        (tmp_path / name).write_text("stays")
        (tmp_path / "a" / "b" / "config.json").write_text("{}")
        raise RuntimeError("the reason")
    assert (tmp_path / name).exists()
    assert not (tmp_path / "a" / "b" / "config.json").exists()


@pytest.mark.parametrize("other", [runs.new_run, runs.resumed_run])
def test_a_folder_in_which_another_process_trains_is_left_alone(tmp_path, other):
    with runs.new_run(tmp_path / "run"):
        (tmp_path / "run" / "config.json").write_text("{}")
        (tmp_path / "run" / ".x.tmp-1").write_text("half")
        with (
            pytest.raises(BlockingIOError, match="Another run is writing"),
            other(tmp_path / "run"),
        ):
            pass
        assert len(list((tmp_path / "run").iterdir())) == 2


def test_of_two_that_begin_a_run_the_second_does_not_write_into_it(tmp_path):
    def finish_soon():
        with runs.new_run(tmp_path / "run"):
            claimed.set()
            (tmp_path / "run" / "config.json").write_text("{}")
            time.sleep(0.3)

    claimed = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(finish_soon)
        claimed.wait()
        with pytest.raises(FileExistsError, match="begun a run"), runs.new_run(tmp_path / "run"):
            pass
        first.result()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_folder_that_is_removed_by_the_run_that_had_it_is_made_again(tmp_path):
    def fail_soon():
        with runs.new_run(tmp_path / "run"):
            claimed.set()
            time.sleep(0.3)
            raise RuntimeError("the reason")

    claimed = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fail_soon)
        claimed.wait()
        with runs.new_run(tmp_path / "run"):
            assert isinstance(first.exception(), RuntimeError)
            (tmp_path / "run" / "config.json").write_text("{}")
    assert (tmp_path / "run" / "config.json").exists()


def test_forked_processes_do_not_keep_the_lock(tmp_path):
    with locked_folder(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
    try:
        with locked_folder(tmp_path, seconds=0.5):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()


class Fails(gymnasium.Env):
    """CartPole's spaces; fails in its second episode while `broken` is set."""

    observation_space = gymnasium.spaces.Box(-5, 5, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    broken, episodes = True, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Fails.episodes += 1
        self.t = 0
        return self.np_random.normal(size=4).astype("float32"), {}

    def step(self, action):
        if Fails.broken and Fails.episodes > 6:
            raise RuntimeError("out of order")
        self.t += 1
        return self.np_random.normal(size=4).astype("float32"), 1.0, self.t > 5, False, {}


@pytest.mark.parametrize("change", ["moved", "gone", "other folder"])
def test_a_run_that_starts_from_a_model_needs_nothing_outside_its_folder(
    tmp_path, monkeypatch, change
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(gymnasium.registry, "Fails-v0", EnvSpec("Fails-v0", Fails))
    monkeypatch.setattr(Fails, "broken", True)
    monkeypatch.setattr(Fails, "episodes", 0)
    tfpg.networks.mlp("CartPole-v1", hidden=(3,), seed=0).save("start.keras")
    args = ["--episodes-per-update", "2", "--iterations", "5", "--checkpoint-every", "0"]
    args += ["--seed", "1", "--no-video", "--verbose", "0", "--model", "start.keras"]
    assert main(["train", "reinforce", "Fails-v0", *args, "--run", "r"]) == 1
    if change == "moved":
        Path("start.keras").rename("elsewhere.keras")
    elif change == "gone":
        Path("start.keras").unlink()
    else:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setattr(Fails, "broken", False)
    assert main(["resume", str(tmp_path / "r")]) == 0
    assert tfpg.load_model(tmp_path / "r/last.keras").layers[1].units == 3


@pytest.mark.slow
def test_a_run_continues_with_its_critic_and_resumes_from_its_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "sac", "Pendulum-v1", "--env-steps", "600", "--no-video", "--seed", "1"]
    train += ["--verbose", "0", "--validation-env-steps", "0", "--jit-compile", "off"]
    assert main([*train, "--hidden", "4", "--run", "r"]) == 0
    critic = Path("r/model.critic.keras").read_bytes()
    assert Path("r/last.critic.keras").exists()
    assert main([*train, "--model", "r", "--run", "more"]) == 0
    assert Path("more/start.critic.keras").read_bytes() == critic
    assert "new one" not in capsys.readouterr().err
    trained = flat_weights(tfpg.load_model("more/last.critic.keras"))
    for name in ("more/checkpoints", "r"):  # from scratch, and with nothing but its own folder
        shutil.rmtree(name)
    Path("more/last.critic.keras").unlink()
    update_config(Path("more"), finished=False)
    assert main(["resume", "more", "--verbose", "0"]) == 0
    found = flat_weights(tfpg.load_model("more/last.critic.keras"))
    np.testing.assert_array_equal(found, trained)
    Path("more/model.critic.keras").unlink()
    assert main([*train, "--model", "more", "--run", "new"]) == 0
    assert "'more' has no critic for sac: it is a new one" in capsys.readouterr().err
    assert not Path("new/start.critic.keras").exists()
