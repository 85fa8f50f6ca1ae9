"""Packs act like their runs, load as agents, and are safe to open."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from marks import slow_but
from small import ALGORITHMS, flat_weights, options_for, small_agent, small_model, small_sac

import tfpg
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError
from tfpg.models.safe_loading import check_model_file
from tfpg.results.run_config import RunConfig, update_config
from tfpg.sharing import runs
from tfpg.sharing.pack import card, pack

CARTPOLE = "CartPole-v1"
X = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")


def write_run(folder, agent, algorithm=None, env=CARTPOLE, **entries):
    """Save an agent as `tfpg train` does."""
    agent.policy_for(CARTPOLE if ":" in env else env)
    config = RunConfig(
        command="tfpg train x",
        algorithm=algorithm or type(agent).__name__.lower(),
        env=env,
        seed=1,
        preset=None,
        iterations=5,
        env_steps=None,
        network={},
        critic=None,
        optimizer=keras.optimizers.serialize(agent.model.optimizer),
        options=agent.get_config(),
        head=agent.head_options(),
        finished=True,
    )
    folder.mkdir(exist_ok=True)
    config.write(folder)
    update_config(folder, **entries)
    agent.save(folder / "model.keras")
    return folder


def trained(algorithm=tfpg.Reinforce, **options):
    agent = small_agent(algorithm, **options)
    agent.fit(CARTPOLE, 1, seed=0, verbose=0)
    return agent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    agent = trained(gamma=0.9)
    folder = write_run(tmp_path_factory.mktemp("packs") / "run", agent)
    (folder / "video.mp4").write_bytes(b"a video")
    return folder


@pytest.fixture
def members(run, tmp_path):
    """The members of a pack."""
    path = pack(run, tmp_path / "pack.zip", episodes=1).path
    with zipfile.ZipFile(path) as archive:
        found = {info.filename: archive.read(info) for info in archive.infolist()}
    path.unlink()
    return found


class TestPack:
    @pytest.mark.parametrize("name", ["pack.zip", "pack"])
    def test_it_plays_like_the_run(self, name, run, tmp_path):
        packed = pack(run, tmp_path / name, episodes=4, seed=3, license="CC0-1.0")
        assert list(packed.files) == ["README.md", "config.json", "model.keras", "video.mp4"]
        source = runs.find_model(packed.path)
        policy = tfpg.Policy(tfpg.load_model(source.model), source.env, **source.head)
        result = tfpg.evaluate(policy, source.env, 4, seed=3, max_steps=source.max_steps)
        assert result == packed.evaluation
        assert source.max_steps == options_for(tfpg.Reinforce)["max_steps"]
        assert [p.name for p in tmp_path.iterdir()] == [name]

    def test_the_model_keeps_its_weights_and_optimizer_without_state(self, run, tmp_path):
        packed = pack(run, tmp_path / "pack", episodes=1)
        before = tfpg.load_model(run / "model.keras")
        after = tfpg.load_model(packed.path / "model.keras")
        for one, other in zip(before.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert after.optimizer.get_config() == before.optimizer.get_config()
        assert before.optimizer.iterations.numpy() == 1
        assert after.optimizer.iterations.numpy() == 0
        with zipfile.ZipFile(packed.path / "model.keras") as archive:
            assert archive.getinfo("model.weights.h5").file_size < 25_000

    def test_the_card_has_the_score_the_license_and_the_commands(self, members):
        text = members["README.md"].decode()
        for part in ("# pack", "| license |", "tfpg train x", "tfpg evaluate pack.zip"):
            assert (part in text) == (part != "| license |")
        config = json.loads(members["config.json"])
        assert "command" not in config
        assert config["options"]["gamma"] == 0.9

    def test_the_interval_is_that_of_the_mean(self):
        returns = [1.0, 2.0, 3.0, 4.0]
        result = {"episode_returns": returns, "episode_return": 2.5, "seed": 7}
        config = {"env": CARTPOLE, "algorithm": "ppo", "versions": {"tfpg": "0.1.0"}}
        spaces = tfpg.envs.spaces_of(CARTPOLE)
        text = card(Path("a.zip"), config, spaces, 1234, result, "CC-BY-4.0")
        assert "**2.5 +- 1.265**, the mean of 4 greedy episodes (seed 7)" in text
        assert "| parameters | 1,234 |" in text
        assert "| license | CC-BY-4.0 |" in text
        assert "## Training" not in text

    def test_a_large_video_is_left_out(self, run, tmp_path):
        folder = write_run(tmp_path / "run", trained())
        (folder / "video.mp4").write_bytes(bytes(5_000_001))
        assert "video.mp4" not in pack(folder, tmp_path / "pack.zip", episodes=1).files

    def test_nothing_is_overwritten_or_left_behind_if_it_fails(self, run, tmp_path):
        with pytest.raises(FileExistsError, match="holds something else"):
            pack(run, run)
        with pytest.raises(ValueError, match="is not a run folder"):
            pack(run / "model.keras", tmp_path / "pack.zip")
        with pytest.raises(FileNotFoundError, match="mkdir -p"):
            pack(run, tmp_path / "nowhere/pack.zip")
        broken = write_run(tmp_path / "broken", trained())
        (broken / "model.keras").write_bytes(b"PK\x05\x06" + bytes(18))
        for name in ("pack.zip", "pack"):
            with pytest.raises(CheckpointCorruptError):
                pack(broken, tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == ["broken"]


class TestLoadAgent:
    @pytest.mark.parametrize("algorithm", slow_but(ALGORITHMS[::3], ALGORITHMS))
    def test_every_algorithm_continues(self, algorithm, tmp_path):
        before = trained(algorithm, gamma=0.9)
        run = write_run(tmp_path / "run", before)
        pack(run, tmp_path / "pack.zip", episodes=1)
        for path in (run, tmp_path / "pack.zip"):
            agent = tfpg.load_agent(path)
            assert type(agent) is algorithm
            changed = {"epsilon", "learning_starts"} if algorithm is tfpg.DQN else set()
            for name, value in before.get_config().items():
                assert agent.get_config()[name] == value or name in changed, name
            np.testing.assert_array_equal(agent.predict(X), before.predict(X))
            results = [each.evaluate(CARTPOLE, 3, seed=5) for each in (agent, before)]
            assert results[0] == results[1]
            assert len(agent.fit(CARTPOLE, 1, seed=1, verbose=0).history["loss"]) == 1

    def test_a_dqn_explores_with_its_last_epsilon(self, tmp_path):
        schedule = tfpg.schedules.exponential(1.0, 0.07, 0.1)
        before = small_agent(
            tfpg.DQN, epsilon=schedule, priority_beta=tfpg.schedules.linear(0.4, 1, 10)
        )
        run = write_run(tmp_path / "run", before)
        agent = tfpg.load_agent(run)
        assert agent.get_config()["epsilon"] == pytest.approx(0.07)
        assert agent.priority_beta(5) == pytest.approx(0.7)
        assert agent.learning_starts == agent.batch_size
        assert repr(tfpg.load_agent(run, epsilon=schedule).epsilon) == repr(schedule)

    def test_a_trained_standard_deviation_is_kept(self, tmp_path):
        env = "Pendulum-v1"
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        before = tfpg.Reinforce(model, squash=True, episodes_per_update=2)
        before.policy_for(env).head.variables[0].assign([-1.5])
        agent = tfpg.load_agent(write_run(tmp_path / "run", before, env=env))
        assert agent.policy.head.variables[0].numpy().tolist() == [-1.5]
        assert agent.squash is True
        x, noise = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")
        actions = [each.policy.actor()(x, noise).env_actions for each in (before, agent)]
        np.testing.assert_array_equal(*actions)

    def test_a_separate_value_model_is_a_new_one(self, tmp_path):
        value_model = tfpg.networks.critic(CARTPOLE, hidden=(4,), seed=0)
        before = small_agent(tfpg.Reinforce, value_model=value_model, value_updates=2)
        run = write_run(tmp_path / "run", before, critic={"hidden": [6]})
        agent = tfpg.load_agent(run)
        assert (agent.baseline, agent.value_updates) == ("value", 2)
        assert agent.value_model.count_params() == 4 * 6 + 6 + 6 + 1

    def test_a_run_has_its_critic_and_a_pack_has_a_new_one(self, tmp_path):
        env, before = "Pendulum-v1", small_sac()
        before.fit(env, 1, seed=0, verbose=0)
        run = write_run(tmp_path / "run", before, env=env, critic={"hidden": [8]})
        before.critic.optimizer.learning_rate = 0.007
        tfpg.save_model(before.critic, run / "model.critic.keras")
        agent = tfpg.load_agent(run)
        np.testing.assert_array_equal(flat_weights(agent.critic), flat_weights(before.critic))
        assert agent.critic.optimizer.iterations.numpy() == before.updates
        assert float(agent.critic.optimizer.learning_rate) == pytest.approx(0.007)
        agent.fit(env, 1, seed=1, verbose=0)
        pack(run, tmp_path / "pack.zip", episodes=1)
        new = tfpg.load_agent(tmp_path / "pack.zip").critic
        assert not np.array_equal(flat_weights(new), flat_weights(before.critic))

    def test_the_critic_of_another_algorithm_is_not_used(self, run):
        source = runs.find_model(run)._replace(critic=Path("model.critic.keras"))
        assert source.critic_for("reinforce") == source.critic
        assert source.critic_for("sac") is None
        assert source._replace(config={}).critic_for("sac") == source.critic

    def test_options_replace_those_of_the_config(self, run):
        agent = tfpg.load_agent(run, gamma=0.5)
        assert (agent.gamma, agent.episodes_per_update) == (0.5, 4)
        with pytest.raises(TypeError, match="Unknown Reinforce option 'gama'. Did you mean"):
            tfpg.load_agent(run, gama=0.5)
        for name in ("seed", "model", "iterations", "learning_rate"):
            with pytest.raises(TypeError, match=f"Unknown Reinforce option '{name}'"):
                tfpg.load_agent(run, **{name: 1})
        with pytest.raises(ValueError, match="gamma must be"):
            tfpg.load_agent(run, gamma=5)

    def test_options_replace_the_range_and_the_target_network_of_the_config(self):
        agent = tfpg.load_agent("zoo:c51/CartPole-v1", v_max=200.0, target_update_period=50)
        assert agent.support == (0.0, 200.0)
        assert (agent.tau, agent.target_update_period) == (None, 50)

    def test_what_is_not_a_run_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="No run or model at 'nowhere'"):
            tfpg.load_agent("nowhere")
        with pytest.raises(FileNotFoundError, match="has no config.json"):
            tfpg.load_agent(tmp_path)
        tfpg.save_model(small_model(tfpg.Reinforce), tmp_path / "model.keras")
        with pytest.raises(ValueError, match=r"has no config: load its model with tfpg.PPO.load"):
            tfpg.load_agent(tmp_path / "model.keras", CARTPOLE)


class TestSafety:
    def zipped(self, path, members):
        """A zip file of (name, content) pairs."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return path

    def test_other_members_are_not_extracted(self, members, tmp_path):
        others = [("../evil.py", "x"), ("/etc/evil", "x"), ("model.keras/../../evil.py", "x")]
        path = self.zipped(tmp_path / "a.zip", [*others, *members.items()])
        folder = runs.find_model(path).model.parent
        assert {p.name for p in folder.iterdir()} == {"config.json", "model.keras"}
        assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: [x for x in m if x[0] != "model.keras"], "it has no model.keras at its top"),
            (lambda m: [(f"run/{name}", x) for name, x in m], "it has no config.json at its top"),
            (lambda m: [*m, ("config.json", b"{}")], "it has 2 config.json at its top"),
            (
                lambda m: [*m[:1], ("model.keras", bytes(50_000_000)), *m[1:2]],
                "model.keras would be unpacked to 50.0 MB, far more than",
            ),
        ],
    )
    def test_an_archive_with_other_parts_is_refused(self, change, message, members, tmp_path):
        parts = [(name, members[name]) for name in ("README.md", "config.json", "model.keras")]
        path = self.zipped(tmp_path / "a.zip", change(parts))
        with pytest.raises(CheckpointCorruptError, match=f"is not a pack .*: {message}"):
            tfpg.load_agent(path)

    @pytest.mark.parametrize("part", [0.0, 0.1, 0.99])
    def test_a_file_that_was_cut_short_is_refused(self, part, members, tmp_path):
        path = self.zipped(tmp_path / "a.zip", members.items())
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(CheckpointCorruptError, match="is not a pack that tfpg pack wrote"):
            tfpg.load_agent(path)

    def test_a_model_is_checked_as_by_load_model(self, members, tmp_path):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x[:, :2])])
        buffer = tmp_path / "m.keras"
        model.save(buffer)
        path = self.zipped(
            tmp_path / "a.zip", {**members, "model.keras": buffer.read_bytes()}.items()
        )
        with pytest.raises(UnsafeCheckpointError, match="Lambda"):
            tfpg.load_agent(path)

    def test_a_module_that_a_pack_names_is_not_imported(self, members, tmp_path, monkeypatch):
        (tmp_path / "evil.py").write_text("raise SystemExit")
        monkeypatch.syspath_prepend(tmp_path)
        config = json.loads(members["config.json"])
        for entry, message in [
            ({"env": f"evil:{CARTPOLE}"}, "making that imports a module. If you trust"),
            ({"algorithm": "evil:Agent"}, "is a class of a module. If you trust"),
        ]:
            text = json.dumps({**config, **entry})
            path = self.zipped(tmp_path / "a.zip", {**members, "config.json": text}.items())
            with pytest.raises(ValueError, match=message):
                tfpg.load_agent(path)
        agent = tfpg.load_agent(path, algorithm="reinforce")
        assert agent.predict(X).shape == (50,)

    def test_a_changed_file_is_read_again(self, members, tmp_path):
        path = self.zipped(tmp_path / "a.zip", members.items())
        assert runs.find_model(path).max_steps == 30
        config = json.loads(members["config.json"])
        config["options"]["max_steps"] = 12_345
        self.zipped(path, {**members, "config.json": json.dumps(config)}.items())
        assert runs.find_model(path).max_steps == 12_345
        assert check_model_file(runs.find_model(path).model)


def tfpg_command(*args, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "tfpg", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_commands_take_a_pack_in_place_of_a_run(run, tmp_path):
    out = tfpg_command("pack", run, "--out", "p.zip", "--episodes", 3, "--seed", 1, cwd=tmp_path)
    assert out.startswith("p.zip  (")
    assert "over 3 episodes)" in out
    assert out.endswith("To play it: tfpg evaluate p.zip\n")
    options = ["--episodes", 3, "--seed", 1, "--json"]
    results = [
        json.loads(tfpg_command("evaluate", each, *options, cwd=tmp_path))
        for each in ("p.zip", run)
    ]
    assert results[0].pop("model") == "p.zip"
    assert results[1].pop("model") == str(run / "model.keras")
    assert results[0] == results[1]
    tfpg_command("record", "p.zip", "v.gif", "--max-seconds", "0.2", cwd=tmp_path)
    tfpg_command("export", "p.zip", "--format", "litert", cwd=tmp_path)
    train = ["train", "reinforce", CARTPOLE, "--model", "p.zip", "--iterations", 1, "--no-video"]
    tfpg_command(*train, "--run", "more", cwd=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"p.zip", "v.gif", "p.tflite", "more"}
